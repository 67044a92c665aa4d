//! Attention: how rows and heads are shared out to threads. A row has the bits that it has alone. What a
//! thread does is in `attention_rows`, what it does to a tile in `attention_tile`.

use super::simd::LANES;
use super::span::Span;
use crate::kernel::{AttentionRow, CacheLayout, PAGE_LEN};
use crate::quant::GROUP;
use std::ops::Range;

/// Key/value heads of a unit of one row: what a page holds of them lies together. What a thread keeps of more
/// would not fit caches.
const HEADS: usize = 8;

/// Rows of sequences of their own, from which on there is work for all threads with a row for each.
const MANY: usize = 16;

/// Rows of one sequence that share keys and values. More would share little more, and make units too
/// large to spread over many threads.
pub(super) const ROWS: usize = 4;

/// Operands of an attention call; see [`crate::kernel::Call::Attention`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Attention {
    pub(super) q: Span,
    pub(super) cache: Span,
    pub(super) map: Span,
    pub(super) pages: Span,
    pub(super) path: Span,
    pub(super) out: Span,
    /// Coefficients and table of a key bias.
    pub(super) bias: Option<(Span, Span)>,
    pub(super) heads: usize,
    pub(super) layout: CacheLayout,
    pub(super) scale: f32,
    pub(super) window: usize,
}

impl Attention {
    /// Query heads per key/value head.
    pub(super) fn group(&self) -> usize {
        self.heads / self.layout.kv_heads
    }

    /// Elements of a head, padded to whole vectors, or to whole groups of codes.
    pub(super) fn padded(&self) -> usize {
        let unit = if self.layout.format.is_compressed() { GROUP } else { LANES };
        self.layout.head_dim.next_multiple_of(unit)
    }

    /// Elements from one query or key to the next: with a key bias, a query goes on with its
    /// coefficients and a key with the turns of its position, so that one product takes in both.
    pub(super) fn stride(&self) -> usize {
        self.padded() * if self.bias.is_some() { 2 } else { 1 }
    }

    /// Whether keys and values are multiplied as they lie in the cache, widened as they are loaded.
    pub(super) fn reads_halves(&self) -> bool {
        let whole = self.layout.head_dim.is_multiple_of(LANES);
        !self.layout.format.is_compressed() && self.bias.is_none() && whole
    }

    /// Key/value heads of a unit at most.
    pub(super) fn heads_max(&self) -> usize {
        HEADS.min(self.layout.kv_heads)
    }

    /// Rows times key/value heads of a unit at most: one of both is one.
    pub(super) fn spots_max(&self) -> usize {
        ROWS.max(self.heads_max())
    }

    /// f32 of working memory per thread: the tile of keys or values, then per row and query head the
    /// query, the output, the tile's weights, the sum of weights and the maximum.
    pub(super) fn scratch(&self) -> usize {
        let head = self.stride() + self.padded() + 3 * LANES;
        self.tile() + self.spots_max() * self.group() * head
    }

    /// f32 of a thread's tile: none where keys and values are multiplied as they lie.
    pub(super) fn tile(&self) -> usize {
        if self.reads_halves() { 0 } else { PAGE_LEN * self.stride() }
    }

    /// Adds the units by which the rows of `map` are shared out.
    pub(super) fn share_out(&self, map: &[AttentionRow], units: &mut Vec<Unit>) {
        let many = blocks(map).filter(|block| block.len() == 1).count() >= MANY;
        for rows in blocks(map) {
            let each = if many && rows.len() == 1 { self.heads_max() } else { 1 };
            for first in (0..self.layout.kv_heads).step_by(each) {
                let heads = first..self.layout.kv_heads.min(first + each);
                units.push(Unit { rows: rows.clone(), heads });
            }
        }
    }
}

/// A unit of work: some rows of one sequence and one key/value head, or one row and some heads.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub(super) rows: Range<usize>,
    pub(super) heads: Range<usize>,
}

/// Rows that are computed together: neighbours of one sequence, which share its pages.
fn blocks(map: &[AttentionRow]) -> impl Iterator<Item = Range<usize>> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let own = map.get(from)?.page_start;
        let more = map[from..].iter().take(ROWS).take_while(|row| row.page_start == own);
        let rows = from..from + more.count();
        from = rows.end;
        Some(rows)
    })
}
