//! Handles of a part's weights once they are on a device.

use super::Workspace;
use crate::kernel::{Buffer, Matrix, Projection};
use crate::model::ModelSpec;
use std::sync::Arc;

/// A weight matrix as slabs of its rows: some resident, some in the ring that weights stream through.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slabs {
    /// Rows (output features) of the whole matrix.
    pub rows: usize,
    /// First row and handle of each slab.
    pub slabs: Vec<(usize, Matrix)>,
}

impl Slabs {
    /// The projections that compute these slabs' outputs.
    fn projections(
        &self,
        bias: Option<Buffer>,
        out: Buffer,
    ) -> impl Iterator<Item = Projection> + '_ {
        let stride = self.rows;
        let project = move |&(first, weight)| Projection { weight, bias, out, first, stride };
        self.slabs.iter().map(project)
    }
}

/// Weights of one layer; optional ones follow the flags of its `LayerSpec`.
#[derive(Clone, Debug)]
pub struct LayerWeights {
    /// Norm before attention.
    pub attention_norm: Buffer,
    /// Query, key, value projections.
    pub qkv: [Slabs; 3],
    /// Their biases.
    pub qkv_bias: Option<[Buffer; 3]>,
    /// Norms of query and key heads.
    pub qk_norm: Option<[Buffer; 2]>,
    /// Attention output projection.
    pub attention_output: Slabs,
    /// Norm before the feed-forward network.
    pub feed_forward_norm: Buffer,
    /// Gate projection.
    pub gate: Slabs,
    /// Up projection.
    pub up: Slabs,
    /// Down projection.
    pub down: Slabs,
    /// Norms of the attention and feed-forward outputs.
    pub post_norms: Option<[Buffer; 2]>,
}

impl LayerWeights {
    /// The same as layer `index`, with its linear layers between the buffers of a workspace.
    pub fn bind(self, spec: &ModelSpec, index: usize, w: &Workspace) -> BoundLayer {
        let split = spec.splits_key_bias(index, w.size.kv_format);
        let qkv = (0..3).flat_map(|i| {
            let bias = self.qkv_bias.filter(|_| i != 1 || !split).map(|bias| bias[i]);
            self.qkv[i].projections(bias, [w.q, w.k, w.v][i])
        });
        let qkv = qkv.collect();
        let up = self.up.projections(None, w.up);
        BoundLayer {
            qkv,
            attention_output: self.attention_output.projections(None, w.normed).collect(),
            gate_up: self.gate.projections(None, w.gate).chain(up).collect(),
            down: self.down.projections(None, w.normed).collect(),
            weights: self,
        }
    }
}

/// Weights of one layer at work: the linear layers that share their input are one call each.
#[derive(Clone, Debug)]
pub struct BoundLayer {
    /// All of them.
    pub weights: LayerWeights,
    /// Queries, keys and values.
    pub qkv: Arc<[Projection]>,
    /// Attention's output.
    pub attention_output: Arc<[Projection]>,
    /// Gate and up.
    pub gate_up: Arc<[Projection]>,
    /// Down.
    pub down: Arc<[Projection]>,
}

/// Weights after the last layer.
#[derive(Clone, Debug)]
pub struct HeadWeights {
    /// Final norm.
    pub norm: Buffer,
    /// Output head, `[vocab][hidden]`, in the parts that stream together.
    pub output: Vec<Slabs>,
}

impl HeadWeights {
    /// The same with its linear layers between the buffers of a workspace.
    pub fn bind(self, w: &Workspace) -> BoundHead {
        let parts = self.output.iter();
        let output = parts.map(|slabs| slabs.projections(None, w.logits).collect()).collect();
        BoundHead { norm: self.norm, output }
    }
}

/// Weights after the last layer at work.
#[derive(Clone, Debug)]
pub struct BoundHead {
    /// Final norm.
    pub norm: Buffer,
    /// Output head, in the parts that stream together.
    pub output: Vec<Arc<[Projection]>>,
}
