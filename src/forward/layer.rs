//! The calls of one layer and of the output head, for every architecture.

use super::{HeadWeights, LayerWeights, Workspace};
use crate::kernel::{Buffer, Call, Projection};
use crate::model::{LayerSpec, ModelSpec};

/// Calls that run layer `index` over the first `rows` rows of the workspace.
pub fn layer_calls(
    spec: &ModelSpec,
    index: usize,
    weights: &LayerWeights,
    cache: Buffer,
    w: &Workspace,
    rows: usize,
) -> Vec<Call> {
    let layer = &spec.layers[index];
    let mut calls = Vec::with_capacity(20);
    attention_calls(spec, layer, weights, cache, w, rows, &mut calls);
    feed_forward_calls(spec, layer, weights, w, rows, &mut calls);
    calls
}

fn norm(spec: &ModelSpec, x: Buffer, weight: Buffer, out: Buffer, rows: usize) -> Call {
    Call::RmsNorm { x, weight, out, rows, cols: spec.hidden, eps: spec.norm_eps }
}

/// Adds a block's output (in `normed`) to the residual stream, normed first where the model does so.
fn residual(
    spec: &ModelSpec,
    post_norm: Option<Buffer>,
    w: &Workspace,
    rows: usize,
    calls: &mut Vec<Call>,
) {
    calls.extend(post_norm.map(|weight| norm(spec, w.normed, weight, w.normed, rows)));
    calls.push(Call::Add { x: w.x, y: w.normed, count: rows * spec.hidden });
}

fn attention_calls(
    spec: &ModelSpec,
    layer: &LayerSpec,
    weights: &LayerWeights,
    cache: Buffer,
    w: &Workspace,
    rows: usize,
    calls: &mut Vec<Call>,
) {
    let (heads, kv_heads, head_dim) = (layer.heads, layer.kv_heads, layer.head_dim);
    calls.push(norm(spec, w.x, weights.attention_norm, w.normed, rows));
    let outs = [w.q, w.k, w.v];
    let projections = (0..3).map(|i| Projection {
        weight: weights.qkv[i],
        bias: weights.qkv_bias.map(|bias| bias[i]),
        out: outs[i],
    });
    calls.push(Call::Linear {
        x: w.normed,
        rows,
        cols: spec.hidden,
        projections: projections.collect(),
    });
    for (i, (x, heads)) in [(w.q, heads), (w.k, kv_heads)].into_iter().enumerate() {
        if let Some(norms) = weights.qk_norm {
            let rows = rows * heads;
            let eps = spec.norm_eps;
            calls.push(Call::RmsNorm { x, weight: norms[i], out: x, rows, cols: head_dim, eps });
        }
        let rope = &spec.ropes[layer.rope];
        calls.push(Call::Rope {
            x,
            angles: w.angles[layer.rope],
            rows,
            heads,
            head_dim,
            pairs: rope.inv_freq.len(),
            style: rope.style,
        });
    }
    let layout = layer.cache();
    calls.push(Call::Append { k: w.k, v: w.v, cache, slots: w.slots, rows, layout });
    calls.push(Call::Attention {
        q: w.q,
        cache,
        map: w.map,
        pages: w.pages,
        path: w.path,
        out: w.attention,
        rows,
        heads,
        layout,
        scale: layer.attention_scale,
        window: layer.window.unwrap_or(0),
    });
    calls.push(Call::Linear {
        x: w.attention,
        rows,
        cols: heads * head_dim,
        projections: vec![Projection {
            weight: weights.attention_output,
            bias: None,
            out: w.normed,
        }],
    });
    residual(spec, weights.post_norms.map(|n| n[0]), w, rows, calls);
}

fn feed_forward_calls(
    spec: &ModelSpec,
    layer: &LayerSpec,
    weights: &LayerWeights,
    w: &Workspace,
    rows: usize,
    calls: &mut Vec<Call>,
) {
    calls.push(norm(spec, w.x, weights.feed_forward_norm, w.normed, rows));
    let projection = |weight, out| Projection { weight, bias: None, out };
    calls.push(Call::Linear {
        x: w.normed,
        rows,
        cols: spec.hidden,
        projections: vec![projection(weights.gate, w.gate), projection(weights.up, w.up)],
    });
    calls.push(Call::Gate {
        gate: w.gate,
        up: w.up,
        out: w.gate,
        count: rows * layer.feed_forward,
        activation: layer.activation,
    });
    calls.push(Call::Linear {
        x: w.gate,
        rows,
        cols: layer.feed_forward,
        projections: vec![projection(weights.down, w.normed)],
    });
    residual(spec, weights.post_norms.map(|n| n[1]), w, rows, calls);
}

/// Calls that turn the residual rows listed in `w.outputs` into logits, at most `w.logit_rows` of them.
pub fn head_calls(
    spec: &ModelSpec,
    weights: &HeadWeights,
    w: &Workspace,
    rows: usize,
) -> Vec<Call> {
    assert!(rows <= w.logit_rows);
    vec![
        Call::Gather { x: w.x, index: w.outputs, out: w.normed, rows, cols: spec.hidden },
        norm(spec, w.normed, weights.norm, w.normed, rows),
        Call::Linear {
            x: w.normed,
            rows,
            cols: spec.hidden,
            projections: vec![Projection { weight: weights.output, bias: None, out: w.logits }],
        },
    ]
}
