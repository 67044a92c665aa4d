//! Handles of a part's weights once they are on a device.

use crate::kernel::{Buffer, Matrix};

/// Weights of one layer; optional ones follow the flags of its `LayerSpec`.
#[derive(Clone, Debug)]
pub struct LayerWeights {
    /// Norm before attention.
    pub attention_norm: Buffer,
    /// Query, key, value projections.
    pub qkv: [Matrix; 3],
    /// Their biases.
    pub qkv_bias: Option<[Buffer; 3]>,
    /// Norms of query and key heads.
    pub qk_norm: Option<[Buffer; 2]>,
    /// Attention output projection.
    pub attention_output: Matrix,
    /// Norm before the feed-forward network.
    pub feed_forward_norm: Buffer,
    /// Gate projection.
    pub gate: Matrix,
    /// Up projection.
    pub up: Matrix,
    /// Down projection.
    pub down: Matrix,
    /// Norms of the attention and feed-forward outputs.
    pub post_norms: Option<[Buffer; 2]>,
}

/// Weights after the last layer.
#[derive(Clone, Debug)]
pub struct HeadWeights {
    /// Final norm.
    pub norm: Buffer,
    /// Output head, `[vocab][hidden]`.
    pub output: Matrix,
}
