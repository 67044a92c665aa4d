//! Where the keys and values of a tile lie in the cache.

use super::attention_rows::Work;
use super::simd::Simd;
use super::span::Span;
use crate::kernel::{AttentionRow, CacheLayout, PAGE_LEN};
use std::ops::Range;

/// Bytes that memory gives at a time.
const CACHE_LINE: usize = 64;

/// The keys of a cache, or its values, in bytes: where a page has them, and how far apart.
#[derive(Clone, Copy)]
pub(super) struct Side {
    /// Of a head.
    pub(super) bytes: usize,
    /// Bits of an element.
    pub(super) bits: usize,
    page: usize,
    first: usize,
    position: usize,
}

impl Side {
    pub(super) fn of(layout: CacheLayout, values: bool) -> Side {
        let (first, bytes, bits) = match values {
            true => (layout.value_at(0), layout.value_bytes(), layout.format.value_bits()),
            false => (layout.key_at(0), layout.key_bytes(), layout.format.key_bits()),
        };
        let (page, position) = (layout.page_bytes(), layout.kv_heads * bytes);
        Side { bytes, bits, page, first, position }
    }

    /// First byte of a head at a slot.
    #[inline(always)]
    pub(super) fn at(&self, slot: usize, head: usize) -> usize {
        let (page, within) = (slot / PAGE_LEN, slot % PAGE_LEN);
        page * self.page + self.first + within * self.position + head * self.bytes
    }

    /// A head at each position of a tile.
    #[inline(always)]
    pub(super) fn find(&self, cache: Span, slots: &Slots, head: usize) -> [*const u8; PAGE_LEN] {
        let mut at = [std::ptr::null(); PAGE_LEN];
        match slots {
            Slots::Page(page) => {
                let bytes = (PAGE_LEN - 1) * self.position + self.bytes;
                let first = cache.at::<u8>(self.at(page * PAGE_LEN, head), bytes);
                for (index, at) in at.iter_mut().enumerate() {
                    *at = first.wrapping_add(index * self.position);
                }
            }
            Slots::Each(slots) => {
                for (at, &slot) in at.iter_mut().zip(slots) {
                    *at = cache.at::<u8>(self.at(slot, head), self.bytes);
                }
            }
        }
        at
    }
}

/// Cache slots of a tile's positions.
pub(super) enum Slots {
    /// Those of a page.
    Page(usize),
    /// Some are of a path; what is not seen has slot 0.
    Each([usize; PAGE_LEN]),
}

/// Keys or values of one head at the positions of a tile: in the cache, or widened to f32.
pub(super) struct Vectors<const HALVES: bool> {
    pub(super) at: [*const u8; PAGE_LEN],
}

impl<const HALVES: bool> Vectors<HALVES> {
    /// Widened, `stride` floats apart.
    #[inline(always)]
    pub(super) fn widened(tile: *const f32, stride: usize) -> Self {
        Vectors { at: std::array::from_fn(|index| tile.wrapping_add(index * stride).cast()) }
    }

    /// Sixteen elements of the one at `position`, from `d` on.
    #[inline(always)]
    pub(super) unsafe fn load<S: Simd>(&self, position: usize, d: usize) -> S::F {
        // SAFETY: the maker gave vectors of whole lanes.
        unsafe {
            match HALVES {
                true => S::load_f16(self.at[position].cast::<u16>().add(d)),
                false => S::load(self.at[position].cast::<f32>().add(d)),
            }
        }
    }
}

impl Work<'_> {
    /// Cache slots of the seen positions of the tile at `base`.
    #[inline(always)]
    pub(super) unsafe fn slots(
        &self,
        row: &AttentionRow,
        base: usize,
        seen: Range<usize>,
    ) -> Slots {
        let prefix = row.prefix as usize;
        // SAFETY: nobody writes pages or path while calls run; bounds are checked.
        unsafe {
            if base + seen.end <= prefix {
                return Slots::Page(self.page(row, base / PAGE_LEN));
            }
            let mut slots = [0; PAGE_LEN];
            for at in seen {
                let position = base + at;
                slots[at] = if position < prefix {
                    self.page(row, position / PAGE_LEN) * PAGE_LEN + at
                } else {
                    let node = row.path_start as usize + position - prefix;
                    self.call.path.slice::<u32>(node, 1)[0] as usize
                };
            }
            Slots::Each(slots)
        }
    }

    /// The page of a row's tile.
    #[inline(always)]
    unsafe fn page(&self, row: &AttentionRow, tile: usize) -> usize {
        // SAFETY: nobody writes pages while calls run.
        unsafe { self.call.pages.slice::<u32>(row.page_start as usize + tile, 1)[0] as usize }
    }

    /// What comes after a tile's keys, or after its values, of one of `heads`: the next tile's of this head
    /// in a while, and the next head's at once, or, after the last, those of the other side.
    #[inline(always)]
    pub(super) unsafe fn ahead(
        &self,
        row: &AttentionRow,
        tile: usize,
        (head, heads): (usize, &Range<usize>),
        values: bool,
    ) -> Ahead {
        let (own, other) = match values {
            true => (&self.values, &self.keys),
            false => (&self.keys, &self.values),
        };
        // SAFETY: passed on.
        unsafe {
            let far = self.strided(row, tile + 1, head, own);
            let near = match head + 1 < heads.end {
                true => self.strided(row, tile, head + 1, own),
                false => self.strided(row, tile + usize::from(values), heads.start, other),
            };
            Ahead { far, near }
        }
    }

    /// A head's keys or values of a tile, if it lies in the row's pages as a whole.
    #[inline(always)]
    unsafe fn strided(&self, row: &AttentionRow, tile: usize, head: usize, side: &Side) -> Strided {
        if (tile + 1) * PAGE_LEN > row.prefix as usize {
            return Strided::NOTHING;
        }
        // SAFETY: the span of pages checks the tile.
        let page = unsafe { self.page(row, tile) };
        let first = side.at(page * PAGE_LEN, head);
        let first = self.call.cache.at::<u8>(0, 0).wrapping_add(first);
        Strided { first, position: side.position, bytes: side.bytes }
    }
}

/// What to ask for while something else is computed, a little at a time. Pages are strewn over memory, so
/// that it would come too late for who waits for it; asked for all at once, it would delay other loads.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    /// From memory into the second-level cache.
    far: Strided,
    /// From there into the first.
    near: Strided,
}

impl Ahead {
    pub(super) const NOTHING: Ahead = Ahead { far: Strided::NOTHING, near: Strided::NOTHING };

    /// Asks for the vectors of a position.
    #[inline(always)]
    pub(super) unsafe fn ask<S: Simd>(&self, position: usize) {
        // SAFETY: a prefetch may name any address.
        unsafe {
            self.far.lines(position, |line| S::prefetch(line));
            self.near.lines(position, |line| S::prefetch_near(line));
        }
    }
}

/// A vector of some bytes at each position of a tile.
#[derive(Clone, Copy)]
struct Strided {
    first: *const u8,
    position: usize,
    bytes: usize,
}

impl Strided {
    const NOTHING: Strided = Strided { first: std::ptr::null(), position: 0, bytes: 0 };

    #[inline(always)]
    fn lines(&self, position: usize, ask: impl Fn(*const u8)) {
        let vector = self.first.wrapping_add(position * self.position);
        for at in (0..self.bytes).step_by(CACHE_LINE) {
            ask(vector.wrapping_add(at));
        }
    }
}
