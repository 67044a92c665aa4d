//! Memory layouts that host code and kernels share.

use bytemuck::{Pod, Zeroable};

/// Positions in one KV-cache page; also the tile of attention's streaming softmax, so that the order
/// of reduction depends on logical positions alone.
pub const PAGE_LEN: usize = 16;

/// Shape of one layer's paged KV cache, 16-bit floats:
/// `[page][key, value][position in page][kv_head][head_dim]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLayout {
    /// Key/value heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
}

impl CacheLayout {
    /// Elements of one position's keys (or values).
    pub fn width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Bytes of one page of one layer, keys and values.
    pub fn page_bytes(&self) -> usize {
        2 * PAGE_LEN * self.width() * 2
    }

    /// Element index of the first key of `slot`.
    pub fn key_at(&self, slot: usize) -> usize {
        let (page, within) = (slot / PAGE_LEN, slot % PAGE_LEN);
        (page * 2 * PAGE_LEN + within) * self.width()
    }

    /// Element index of the first value of `slot`.
    pub fn value_at(&self, slot: usize) -> usize {
        self.key_at(slot) + PAGE_LEN * self.width()
    }
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
