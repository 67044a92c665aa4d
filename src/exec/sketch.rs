//! A model's calls over buffers that do not exist: to tell a device what it will be asked, and to ask it what
//! it would need.

use super::config::ExecutorConfig;
use crate::forward::{
    self, HeadWeights, LayerWeights, MicroBatch, Slabs, Workspace, WorkspaceSize,
};
use crate::kernel::{Buffer, Call, KvFormat, Matrix};
use crate::model::{ModelSpec, TensorId};
use crate::schedule::{Matrices, Part, head_tensor};

/// One of each kind of call that passes make.
pub(super) fn sketch(spec: &ModelSpec, matrices: &Matrices, config: &ExecutorConfig) -> Vec<Call> {
    let (format, host_attention) = (config.kv_format, matrices.host_attention());
    let (layers, all) = (0..spec.layers.len(), matrices.clone().attending_on_host(false));
    let layer = |layer| sketch_layer(spec, &all, layer, (1, format, host_attention));
    let mut calls: Vec<Call> = layers.flat_map(layer).collect();
    let w = sketch_workspace(spec, format);
    let head = HeadWeights { norm: Buffer(0), output: vec![slabs(matrices, head_tensor(spec))] };
    let head = head.bind(&w);
    calls.push(forward::gather_call(spec, &w, 0, (0, 1)));
    calls.push(forward::head_norm_call(spec, &head, &w, 1));
    calls.push(forward::head_call(spec, &head, &w, 0, 1));
    // Draft trees have rows to be moved.
    let (cache, moves) = (Buffer(0), Buffer(0));
    let layout = spec.layers.first().map(|layer| layer.cache(format));
    calls.extend(layout.map(|layout| Call::Move { cache, moves, count: 1, layout }));
    calls
}

fn slabs(matrices: &Matrices, id: TensorId) -> Slabs {
    let packing = matrices.packing(id);
    let weight = Matrix { id: 0, dtype: packing.dtype, rows: packing.rows, cols: packing.cols };
    Slabs { rows: packing.rows, slabs: vec![(0, weight)] }
}

/// The calls of one layer over buffers that do not exist: to ask a device what it would need.
pub(super) fn sketch_layer(
    spec: &ModelSpec,
    matrices: &Matrices,
    layer: usize,
    (rows, kv_format, host_attention): (usize, KvFormat, bool),
) -> Vec<Call> {
    let buffer = Buffer(0);
    let part = |part| matrices.tensors(spec, part).into_iter().map(|id| slabs(matrices, id));
    let mut attention = part(Part::Attention(layer));
    let mut next = || attention.next().expect("attention has four matrices");
    let (qkv, attention_output) = ([next(), next(), next()], next());
    let mut feed_forward = part(Part::FeedForward(layer));
    let mut next = || feed_forward.next().expect("a feed-forward has three matrices");
    let weights = LayerWeights {
        attention_norm: buffer,
        qkv,
        qkv_bias: spec.layers[layer].qkv_bias.then_some([buffer; 3]),
        qk_norm: None,
        attention_output,
        feed_forward_norm: buffer,
        gate: next(),
        up: next(),
        down: next(),
        post_norms: None,
    };
    let w = sketch_workspace(spec, kv_format);
    let weights = weights.bind(spec, layer, &w);
    let view = (!host_attention).then(|| w.micro[0].view(buffer, (0, 1)));
    forward::layer_calls(spec, layer, &weights, view.as_ref(), &w, (0, rows))
}

fn sketch_workspace(spec: &ModelSpec, kv_format: KvFormat) -> Workspace {
    let b = Buffer(0);
    let angles = vec![b; spec.ropes.len()];
    Workspace {
        size: WorkspaceSize {
            micro_rows: 1,
            micro_batches: 1,
            logit_rows: 1,
            pages: 1,
            window_pages: 0,
            kv_format,
            positions: 0,
            shared_rows: false,
            host_attention: false,
        },
        normed: b,
        q: b,
        k: b,
        v: b,
        terms: b,
        attention: b,
        gate: b,
        up: b,
        head: b,
        logits: b,
        outputs: b,
        identity: b,
        turns: angles.clone(),
        micro: vec![MicroBatch {
            x: b,
            angles,
            slots: b,
            map: b,
            pages: b,
            path: b,
            moves: b,
            windowed: [b; 3],
        }],
    }
}
