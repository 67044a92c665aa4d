//! Memory layouts that host code and kernels share.

use super::KvFormat;
use crate::quant::vector_bytes;
use bytemuck::{Pod, Zeroable};

/// Positions in one KV-cache page. The tile of attention's streaming softmax is this or twice as much, by
/// kernel, counted from position 0: the order of reduction depends on logical positions alone.
pub const PAGE_LEN: usize = 16;

/// Levels of a draft tree below its root at most: bounds what a row attends to by path, and what is
/// moved when a path is accepted.
pub const TREE_DEPTH_MAX: usize = 64;

/// Shape of one layer's paged KV cache: `[page][key, value][position in page][kv_head][head]`.
///
/// A head is `[head_dim]` 16-bit floats, or, compressed, what [`crate::quant::encode`] makes of it: the
/// scales of its groups, then their codes, each filled to words of 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLayout {
    /// Key/value heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// What a head is kept as.
    pub format: KvFormat,
}

impl CacheLayout {
    /// Elements of one position's keys (or values).
    pub fn width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    fn head_bytes(&self, bits: usize) -> usize {
        if bits == 16 { 2 * self.head_dim } else { vector_bytes(self.head_dim, bits) }
    }

    /// Bytes of one head's key.
    pub fn key_bytes(&self) -> usize {
        self.head_bytes(self.format.key_bits())
    }

    /// Bytes of one head's value.
    pub fn value_bytes(&self) -> usize {
        self.head_bytes(self.format.value_bits())
    }

    /// Bytes of one page of one layer, keys and values.
    pub fn page_bytes(&self) -> usize {
        PAGE_LEN * self.kv_heads * (self.key_bytes() + self.value_bytes())
    }

    /// First byte of the keys of `slot`.
    pub fn key_at(&self, slot: usize) -> usize {
        let (page, within) = (slot / PAGE_LEN, slot % PAGE_LEN);
        page * self.page_bytes() + within * self.kv_heads * self.key_bytes()
    }

    /// First byte of the values of `slot`.
    pub fn value_at(&self, slot: usize) -> usize {
        let (page, within) = (slot / PAGE_LEN, slot % PAGE_LEN);
        let keys = PAGE_LEN * self.kv_heads * self.key_bytes();
        page * self.page_bytes() + keys + within * self.kv_heads * self.value_bytes()
    }
}

/// Elements of a head that are rotated together: the largest power of two that divides its length.
pub fn rotation_block(head_dim: usize) -> usize {
    1 << head_dim.trailing_zeros()
}

/// What one row of a pass attends to, by logical position `p` in `0..length`.
///
/// The cache slot of `p` is `pages[page_start + p / PAGE_LEN] * PAGE_LEN + p % PAGE_LEN` while
/// `p < prefix`, and `path[path_start + p - prefix]` from there on (a tree node's ancestors and itself).
/// The row's own position is `length - 1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct AttentionRow {
    /// First entry of the row's sequence in the page table.
    pub page_start: u32,
    /// Positions found through the page table.
    pub prefix: u32,
    /// First entry of the row's path in the path list.
    pub path_start: u32,
    /// Positions attended, this row included.
    pub length: u32,
}
