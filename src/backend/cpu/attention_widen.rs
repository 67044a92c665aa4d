//! Keys and values of a tile as f32, where they are not multiplied as they lie in the cache.

use super::attention_places::{Side, Slots, Vectors};
use super::attention_rows::Work;
use super::simd::{LANES, Simd};
use crate::kernel::PAGE_LEN;
use crate::quant::{GROUP, scale_bytes};
use std::ops::Range;

/// Scales of a tile's positions as floats, as many as a vector has at a time. All are there before the first is
/// looked at: a load has to wait for a store that it comes too close after.
type Scales = [[f32; LANES]; PAGE_LEN];

impl Work<'_> {
    /// Keys or values of a head: where they are in the cache, or those of the seen slots widened in the tile.
    #[inline(always)]
    pub(super) unsafe fn vectors<S: Simd, const HALVES: bool>(
        &self,
        slots: &Slots,
        seen: &Range<usize>,
        head: usize,
        side: &Side,
    ) -> Vectors<HALVES> {
        let at = side.find(self.call.cache, slots, head);
        if HALVES {
            return Vectors { at };
        }
        // SAFETY: the span has checked the heads.
        unsafe { self.widen::<S>(&at, seen, side) };
        Vectors::widened(self.tile, self.stride)
    }

    /// Converts a head's keys or values at the seen positions to f32.
    #[inline(always)]
    unsafe fn widen<S: Simd>(
        &self,
        from: &[*const u8; PAGE_LEN],
        seen: &Range<usize>,
        side: &Side,
    ) {
        let from = Heads { from: &from[seen.clone()], bytes: side.bytes };
        let to = self.tile.wrapping_add(seen.start * self.stride);
        // SAFETY: the caller gives heads; the tile has `stride` floats per position.
        unsafe {
            match side.bits {
                16 => self.widen_f16::<S>(from, to),
                8 => self.widen_codes::<S, 8>(from, to),
                _ => self.widen_codes::<S, 4>(from, to),
            }
        }
    }

    #[inline(always)]
    unsafe fn widen_f16<S: Simd>(&self, heads: Heads, to: *mut f32) {
        for (at, from) in heads.from.iter().enumerate() {
            // SAFETY: the caller gives heads, and room for them, padded to whole vectors.
            unsafe {
                let to = to.add(at * self.stride);
                let from = std::slice::from_raw_parts(from.cast::<u16>(), heads.bytes / 2);
                let (vectors, rest) = from.as_chunks::<LANES>();
                for (i, vector) in vectors.iter().enumerate() {
                    S::store(to.add(i * LANES), S::load_f16(vector.as_ptr()));
                }
                if !rest.is_empty() {
                    let mut vector = [0u16; LANES];
                    vector[..rest.len()].copy_from_slice(rest);
                    S::store(to.add(vectors.len() * LANES), S::load_f16(vector.as_ptr()));
                }
            }
        }
    }

    /// Widens groups of codes of `BITS`, which come after their scales.
    #[inline(always)]
    unsafe fn widen_codes<S: Simd, const BITS: usize>(&self, heads: Heads, to: *mut f32) {
        // Scales of a block, blocks, and blocks whose scales fill a vector.
        let each = if BITS == 8 { 1 } else { 2 };
        let dim = self.call.layout.head_dim;
        let (blocks, some) = (dim.div_ceil(GROUP), LANES / each);
        let codes = scale_bytes(dim, BITS);
        let mut scales: Scales = [[0.0; LANES]; PAGE_LEN];
        for first in (0..blocks).step_by(some) {
            // SAFETY: the caller gives heads, and room for them, padded to whole groups.
            unsafe {
                heads.scales::<S>(first * each * 2, codes, &mut scales);
                for (at, (from, scales)) in heads.from.iter().zip(&scales).enumerate() {
                    let from = from.add(codes + first * GROUP * BITS / 8);
                    let to = to.add(at * self.stride + first * GROUP);
                    for block in 0..some.min(blocks - first) {
                        let from = from.add(block * GROUP * BITS / 8);
                        let [low, high] = match BITS {
                            8 => [S::load_i8(from), S::load_i8(from.add(LANES))],
                            _ => S::load_halves(from),
                        };
                        let scale = scales.as_ptr().add(block * each);
                        let to = to.add(block * GROUP);
                        S::store(to, S::mul(low, S::splat(*scale)));
                        S::store(to.add(LANES), S::mul(high, S::splat(*scale.add(each - 1))));
                    }
                }
            }
        }
    }

    /// Puts the turns of the seen positions beside where their keys come: those of all heads turn alike.
    #[inline(always)]
    pub(super) unsafe fn turn(&self, base: usize, seen: Range<usize>) {
        let Some((_, turns)) = self.call.bias else { return };
        let dim = self.call.layout.head_dim;
        for at in seen {
            // SAFETY: the span checks the position; the tile has `stride` floats for each.
            unsafe {
                let from = turns.slice::<f32>((base + at) * dim, dim);
                let to = self.tile.add(at * self.stride + self.padded);
                to.copy_from_nonoverlapping(from.as_ptr(), dim);
            }
        }
    }
}

/// A head at each of some positions.
#[derive(Clone, Copy)]
struct Heads<'a> {
    from: &'a [*const u8],
    bytes: usize,
}

impl Heads<'_> {
    /// Converts the scales from byte `first` on, of all that come before byte `end`.
    #[inline(always)]
    unsafe fn scales<S: Simd>(&self, first: usize, end: usize, to: &mut Scales) {
        // What follows the scales comes with them, and is not looked at.
        let whole = first + 2 * LANES <= self.bytes;
        for (from, to) in self.from.iter().zip(to) {
            // SAFETY: the caller's: they have so many bytes.
            unsafe {
                let vector = match whole {
                    true => S::load_f16(from.add(first).cast()),
                    false => few::<S>(std::slice::from_raw_parts(from.add(first), end - first)),
                };
                S::store(to.as_mut_ptr(), vector);
            }
        }
    }
}

/// The f32 of up to sixteen scales, and zeros.
#[inline(always)]
unsafe fn few<S: Simd>(scales: &[u8]) -> S::F {
    let mut halves = [0u16; LANES];
    for (half, scale) in halves.iter_mut().zip(scales.as_chunks::<2>().0) {
        *half = u16::from_le_bytes(*scale);
    }
    // SAFETY: sixteen halves.
    unsafe { S::load_f16(halves.as_ptr()) }
}
