//! Handles of a part's weights once they are on a device.

use crate::kernel::{Buffer, Matrix, Projection};

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
    pub fn projections(
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

/// Weights after the last layer.
#[derive(Clone, Debug)]
pub struct HeadWeights {
    /// Final norm.
    pub norm: Buffer,
    /// Output head, `[vocab][hidden]`, in the parts that stream together.
    pub output: Vec<Slabs>,
}
