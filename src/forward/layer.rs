//! The calls of one layer and of the output head, for every architecture.

use super::{BoundHead, BoundLayer, CacheView, MicroBatch, Operands, Workspace, attend_calls};
use crate::kernel::{Buffer, Call, Projection};
use crate::model::{LayerSpec, ModelSpec};
use std::sync::Arc;

/// A layer's turn on a micro-batch: the weights, and the buffers that are its own and shared.
pub struct Turn<'a> {
    spec: &'a ModelSpec,
    index: usize,
    layer: &'a LayerSpec,
    bound: &'a BoundLayer,
    w: &'a Workspace,
    m: &'a MicroBatch,
    micro: usize,
    rows: usize,
}

/// All calls of layer `index` on its device over the first `rows` rows of micro-batch `micro`; without a
/// cache, those around attention on the host.
pub fn layer_calls(
    spec: &ModelSpec,
    index: usize,
    bound: &BoundLayer,
    cache: Option<&CacheView>,
    w: &Workspace,
    at: (usize, usize),
) -> Vec<Call> {
    let (turn, mut calls) = (Turn::new(spec, index, bound, w, at), Vec::new());
    match cache {
        Some(cache) => turn.attention(cache, &mut calls),
        None => {
            turn.qkv(&mut calls);
            turn.output(&mut calls);
        }
    }
    turn.feed_forward(&mut calls);
    calls
}

fn norm(spec: &ModelSpec, x: Buffer, weight: Buffer, out: Buffer, rows: usize) -> Call {
    Call::RmsNorm { x, weight, out, rows, cols: spec.hidden, eps: spec.norm_eps }
}

impl<'a> Turn<'a> {
    /// Of layer `index`, over the first `rows` rows of micro-batch `micro`.
    pub fn new(
        spec: &'a ModelSpec,
        index: usize,
        bound: &'a BoundLayer,
        w: &'a Workspace,
        (micro, rows): (usize, usize),
    ) -> Turn<'a> {
        let (layer, m) = (&spec.layers[index], &w.micro[micro]);
        Turn { spec, index, layer, bound, w, m, micro, rows }
    }

    fn linear(&self, x: Buffer, cols: usize, projections: &Arc<[Projection]>) -> Call {
        Call::Linear { x, rows: self.rows, cols, projections: Arc::clone(projections) }
    }

    /// Adds the calls of the attention block: projections, attention, output.
    pub fn attention(&self, cache: &CacheView, calls: &mut Vec<Call>) {
        let (w, bound) = (self.w, self.bound);
        let operands = Operands {
            q: w.q,
            k: w.k,
            v: w.v,
            terms: w.terms,
            out: w.attention,
            turns: w.turns[self.layer.rope],
            map: w.micro[self.micro].map,
            key_bias: bound.weights.qkv_bias.map(|[_, bias, _]| bias),
            view: *cache,
        };
        self.qkv(calls);
        attend_calls(self.spec, self.index, w.size.kv_format, &operands, self.rows, calls);
        self.output(calls);
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

    /// The part of [`Turn::attention`] before attention itself: queries, keys and values, rotated by
    /// position, into `w.q`, `w.k`, `w.v`.
    pub fn qkv(&self, calls: &mut Vec<Call>) {
        let Turn { spec, layer, w, m, rows, .. } = *self;
        let weights = &self.bound.weights;
        calls.push(norm(spec, m.x, weights.attention_norm, w.normed, rows));
        calls.push(self.linear(w.normed, spec.hidden, &self.bound.qkv));
        self.heads(w.q, layer.heads, weights.qk_norm.map(|norms| norms[0]), calls);
        self.heads(w.k, layer.kv_heads, weights.qk_norm.map(|norms| norms[1]), calls);
    }

    /// The part of [`Turn::attention`] after attention itself: from `w.attention` to the residual stream.
    pub fn output(&self, calls: &mut Vec<Call>) {
        let Turn { layer, bound, w, .. } = *self;
        let width = layer.heads * layer.head_dim;
        calls.push(self.linear(w.attention, width, &bound.attention_output));
        self.residual(bound.weights.post_norms.map(|n| n[0]), calls);
    }

    /// Adds the calls of the feed-forward block.
    pub fn feed_forward(&self, calls: &mut Vec<Call>) {
        let Turn { spec, layer, bound, w, m, rows, .. } = *self;
        calls.push(norm(spec, m.x, bound.weights.feed_forward_norm, w.normed, rows));
        calls.push(self.linear(w.normed, spec.hidden, &bound.gate_up));
        calls.push(Call::Gate {
            gate: w.gate,
            up: w.up,
            out: w.gate,
            count: rows * layer.feed_forward,
            activation: layer.activation,
        });
        calls.push(self.linear(w.gate, layer.feed_forward, &bound.down));
        self.residual(bound.weights.post_norms.map(|n| n[1]), calls);
    }
}

/// Puts `rows` rows of micro-batch `micro`, listed in `w.outputs`, into the head's input from row `first` on.
pub fn gather_call(
    spec: &ModelSpec,
    w: &Workspace,
    micro: usize,
    (first, rows): (usize, usize),
) -> Call {
    assert!(first + rows <= w.size.logit_rows);
    let (x, index, out) = (w.micro[micro].x, w.outputs, w.head);
    Call::Gather { x, index, out, first, rows, cols: spec.hidden }
}

/// Norms the head's input.
pub fn head_norm_call(spec: &ModelSpec, head: &BoundHead, w: &Workspace, rows: usize) -> Call {
    norm(spec, w.head, head.norm, w.head, rows)
}

/// Turns the head's normed input into the logits of part `part` of the vocabulary.
pub fn head_call(
    spec: &ModelSpec,
    head: &BoundHead,
    w: &Workspace,
    part: usize,
    rows: usize,
) -> Call {
    let projections = Arc::clone(&head.output[part]);
    Call::Linear { x: w.head, rows, cols: spec.hidden, projections }
}
