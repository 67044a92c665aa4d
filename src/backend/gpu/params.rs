//! Parameters of kernels: the host twins of the shaders' `Params`.

use bytemuck::{Pod, Zeroable};

/// Bytes of the largest of them: what an adapter must offer.
pub(super) const BYTES_MAX: u32 = 64;

/// `shared/matmul_params.wgsl`. Offsets within a tile count vectors of 16 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Matmul {
    pub cols: u32,
    /// Rows of x in all.
    pub rows: u32,
    pub row_first: u32,
    /// Outputs of the whole matrix: the stride of a row of results.
    pub outs: u32,
    pub out_first: u32,
    pub slab_outs: u32,
    pub tile: u32,
    pub high: u32,
    pub scales: u32,
    pub supers: u32,
    pub bias: u32,
}

/// `shared/attention_params.wgsl`. Sizes of the cache count words.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Attention {
    /// Rows of this dispatch.
    pub rows: u32,
    pub row_first: u32,
    pub heads: u32,
    /// Query heads per key head.
    pub group: u32,
    pub head_dim: u32,
    pub page: u32,
    /// One head's key, one head's value.
    pub key: u32,
    pub value: u32,
    pub window: u32,
    pub scale: f32,
}

/// `rms_norm.wgsl`, `rms_norm_lanes.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Norm {
    pub rows: u32,
    pub cols: u32,
    pub eps: f32,
}

/// `rope.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Rope {
    pub count: u32,
    pub heads: u32,
    pub head_dim: u32,
    pub pairs: u32,
    pub halves: u32,
}

/// `bias_terms.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Terms {
    pub count: u32,
    pub heads: u32,
    pub group: u32,
    pub pairs: u32,
    pub halves: u32,
}

/// `rotate.wgsl`, `rotate_lanes.wgsl`: blocks of `len` elements.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Rotate {
    pub count: u32,
    pub len: u32,
    pub scale: f32,
}

/// `append_codes.wgsl`. Sizes of the cache count words.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct AppendCodes {
    pub count: u32,
    /// Pairs of blocks of a head.
    pub pairs: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    pub page: u32,
    /// One head's key, one head's value.
    pub key: u32,
    pub value: u32,
    pub key_bits: u32,
}

/// `move.wgsl`. Sizes of the cache count words.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Move {
    /// Moves.
    pub count: u32,
    pub page: u32,
    /// One position's keys, one position's values.
    pub key: u32,
    pub value: u32,
}

/// `append.wgsl` (words of one position's keys), `gate.wgsl` (1 for gelu).
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Pairwise {
    pub count: u32,
    pub second: u32,
}

/// `gather.wgsl`; `first` counts elements.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Gather {
    pub count: u32,
    pub cols: u32,
    pub first: u32,
}

/// `add.wgsl`, `quantize_rows.wgsl` (blocks).
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Count {
    pub count: u32,
}
