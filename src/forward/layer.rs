//! The calls of one layer and of the output head, for every architecture.

use super::{
    CacheView, HeadWeights, LayerWeights, MicroBatch, Operands, Slabs, Workspace, attend_calls,
};
use crate::kernel::{Buffer, Call};
use crate::model::{LayerSpec, ModelSpec};

/// What the calls of one turn work on: a layer, a micro-batch's buffers and the shared ones.
struct Turn<'a> {
    spec: &'a ModelSpec,
    index: usize,
    layer: &'a LayerSpec,
    weights: &'a LayerWeights,
    w: &'a Workspace,
    m: &'a MicroBatch,
    rows: usize,
}

/// Calls that run the attention block of layer `index` over the first `rows` rows of micro-batch
/// `micro`: projections, attention, output.
pub fn attention_calls(
    spec: &ModelSpec,
    index: usize,
    weights: &LayerWeights,
    cache: &CacheView,
    w: &Workspace,
    (micro, rows): (usize, usize),
) -> Vec<Call> {
    let operands = Operands {
        q: w.q,
        k: w.k,
        v: w.v,
        terms: w.terms,
        out: w.attention,
        turns: w.turns[spec.layers[index].rope],
        map: w.micro[micro].map,
        key_bias: weights.qkv_bias.map(|[_, bias, _]| bias),
        view: *cache,
    };
    let mut calls = qkv_calls(spec, index, weights, w, (micro, rows));
    calls.extend(attend_calls(spec, index, w.size.kv_format, &operands, rows));
    calls.extend(output_calls(spec, index, weights, w, (micro, rows)));
    calls
}

/// The part of [`attention_calls`] before attention itself: queries, keys and values, rotated by
/// position, into `w.q`, `w.k`, `w.v`.
pub fn qkv_calls(
    spec: &ModelSpec,
    index: usize,
    weights: &LayerWeights,
    w: &Workspace,
    at: (usize, usize),
) -> Vec<Call> {
    let mut calls = Vec::with_capacity(14);
    Turn::new(spec, index, weights, w, at).qkv(&mut calls);
    calls
}

/// The part of [`attention_calls`] after attention itself: from `w.attention` to the residual stream.
pub fn output_calls(
    spec: &ModelSpec,
    index: usize,
    weights: &LayerWeights,
    w: &Workspace,
    at: (usize, usize),
) -> Vec<Call> {
    let mut calls = Vec::with_capacity(11);
    Turn::new(spec, index, weights, w, at).output(&mut calls);
    calls
}

/// Calls that run the feed-forward block of layer `index` over the first `rows` rows of micro-batch
/// `micro`.
pub fn feed_forward_calls(
    spec: &ModelSpec,
    index: usize,
    weights: &LayerWeights,
    w: &Workspace,
    at: (usize, usize),
) -> Vec<Call> {
    let mut calls = Vec::with_capacity(8);
    Turn::new(spec, index, weights, w, at).feed_forward(&mut calls);
    calls
}

/// All calls of layer `index` on its device; without a cache, those around attention on the host.
pub fn layer_calls(
    spec: &ModelSpec,
    index: usize,
    weights: &LayerWeights,
    cache: Option<&CacheView>,
    w: &Workspace,
    at: (usize, usize),
) -> Vec<Call> {
    let mut calls = match cache {
        Some(cache) => attention_calls(spec, index, weights, cache, w, at),
        None => [qkv_calls, output_calls].map(|part| part(spec, index, weights, w, at)).concat(),
    };
    calls.extend(feed_forward_calls(spec, index, weights, w, at));
    calls
}

fn norm(spec: &ModelSpec, x: Buffer, weight: Buffer, out: Buffer, rows: usize) -> Call {
    Call::RmsNorm { x, weight, out, rows, cols: spec.hidden, eps: spec.norm_eps }
}

impl<'a> Turn<'a> {
    fn new(
        spec: &'a ModelSpec,
        index: usize,
        weights: &'a LayerWeights,
        w: &'a Workspace,
        (micro, rows): (usize, usize),
    ) -> Turn<'a> {
        let (layer, m) = (&spec.layers[index], &w.micro[micro]);
        Turn { spec, index, layer, weights, w, m, rows }
    }

    fn linear(&self, x: Buffer, cols: usize, weight: &Slabs, out: Buffer) -> Call {
        let projections = weight.projections(None, out).collect();
        Call::Linear { x, rows: self.rows, cols, projections }
    }

    /// Adds a block's output (in `normed`) to the residual stream, normed first where the model
    /// does so.
    fn residual(&self, post_norm: Option<Buffer>, calls: &mut Vec<Call>) {
        let Turn { spec, w, m, rows, .. } = *self;
        calls.extend(post_norm.map(|weight| norm(spec, w.normed, weight, w.normed, rows)));
        calls.push(Call::Add { x: m.x, y: w.normed, count: rows * spec.hidden });
    }

    /// Norms and rotates the heads of queries or keys.
    fn heads(&self, x: Buffer, heads: usize, weight: Option<Buffer>, calls: &mut Vec<Call>) {
        let Turn { spec, layer, m, rows, .. } = *self;
        let head_dim = layer.head_dim;
        calls.extend(weight.map(|weight| {
            let rows = rows * heads;
            Call::RmsNorm { x, weight, out: x, rows, cols: head_dim, eps: spec.norm_eps }
        }));
        let rope = &spec.ropes[layer.rope];
        let (angles, pairs, style) = (m.angles[layer.rope], rope.inv_freq.len(), rope.style);
        calls.push(Call::Rope { x, angles, rows, heads, head_dim, pairs, style });
    }

    fn qkv(&self, calls: &mut Vec<Call>) {
        let Turn { spec, index, layer, weights, w, m, rows } = *self;
        let split = spec.splits_key_bias(index, w.size.kv_format);
        calls.push(norm(spec, m.x, weights.attention_norm, w.normed, rows));
        let projections = (0..3).flat_map(|i| {
            let bias = weights.qkv_bias.filter(|_| i != 1 || !split).map(|bias| bias[i]);
            weights.qkv[i].projections(bias, [w.q, w.k, w.v][i])
        });
        let projections = projections.collect();
        calls.push(Call::Linear { x: w.normed, rows, cols: spec.hidden, projections });
        self.heads(w.q, layer.heads, weights.qk_norm.map(|norms| norms[0]), calls);
        self.heads(w.k, layer.kv_heads, weights.qk_norm.map(|norms| norms[1]), calls);
    }

    fn output(&self, calls: &mut Vec<Call>) {
        let Turn { layer, weights, w, .. } = *self;
        let width = layer.heads * layer.head_dim;
        calls.push(self.linear(w.attention, width, &weights.attention_output, w.normed));
        self.residual(weights.post_norms.map(|n| n[0]), calls);
    }

    fn feed_forward(&self, calls: &mut Vec<Call>) {
        let Turn { spec, layer, weights, w, m, rows, .. } = *self;
        calls.push(norm(spec, m.x, weights.feed_forward_norm, w.normed, rows));
        let up = weights.up.projections(None, w.up);
        let projections = weights.gate.projections(None, w.gate).chain(up).collect();
        calls.push(Call::Linear { x: w.normed, rows, cols: spec.hidden, projections });
        calls.push(Call::Gate {
            gate: w.gate,
            up: w.up,
            out: w.gate,
            count: rows * layer.feed_forward,
            activation: layer.activation,
        });
        calls.push(self.linear(w.gate, layer.feed_forward, &weights.down, w.normed));
        self.residual(weights.post_norms.map(|n| n[1]), calls);
    }
}

/// Calls that put `rows` rows of micro-batch `micro`, listed in `w.outputs`, into the head's input
/// from row `first` on.
pub fn gather_calls(
    spec: &ModelSpec,
    w: &Workspace,
    micro: usize,
    (first, rows): (usize, usize),
) -> Vec<Call> {
    assert!(first + rows <= w.size.logit_rows);
    let (x, index, out) = (w.micro[micro].x, w.outputs, w.head);
    vec![Call::Gather { x, index, out, first, rows, cols: spec.hidden }]
}

/// Calls that norm the head's input.
pub fn head_norm_calls(
    spec: &ModelSpec,
    weights: &HeadWeights,
    w: &Workspace,
    rows: usize,
) -> Vec<Call> {
    vec![norm(spec, w.head, weights.norm, w.head, rows)]
}

/// Calls that turn the head's normed input into the logits of part `part` of the vocabulary.
pub fn head_calls(
    spec: &ModelSpec,
    weights: &HeadWeights,
    w: &Workspace,
    part: usize,
    rows: usize,
) -> Vec<Call> {
    let projections = weights.output[part].projections(None, w.logits).collect();
    vec![Call::Linear { x: w.head, rows, cols: spec.hidden, projections }]
}
