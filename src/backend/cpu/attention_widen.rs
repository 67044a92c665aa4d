//! Keys and values of a tile as f32, where they are not multiplied as they lie in the cache.

use super::attention_places::{Side, Slots};
use super::attention_rows::Work;
use super::simd::{LANES, Simd};
use crate::quant::{GROUP, scale_bytes};
use std::ops::Range;

impl Work<'_> {
    /// Converts the keys or the values of the seen slots to f32.
    #[inline(always)]
    pub(super) unsafe fn widen<S: Simd>(
        &self,
        slots: &Slots,
        seen: Range<usize>,
        heads: &Range<usize>,
        side: &Side,
    ) {
        let dim = self.call.layout.head_dim;
        for at in seen {
            for (index, head) in heads.clone().enumerate() {
                let from = side.at(slots.get(at), head);
                // SAFETY: the span checks the slot; tiles have `stride` floats per position.
                unsafe {
                    let to = self.tile(index).add(at * self.stride);
                    if side.bits == 16 {
                        widen_f16::<S>(self.call.cache.slice(from / 2, side.bytes / 2), to);
                        continue;
                    }
                    let head = self.call.cache.slice::<u8>(from, side.bytes);
                    match side.bits {
                        8 => widen_codes::<S, 8>(head, scale_bytes(dim, 8), to),
                        _ => widen_codes::<S, 4>(head, scale_bytes(dim, 4), to),
                    }
                }
            }
        }
    }

    /// Puts the turns of the seen positions beside their keys.
    #[inline(always)]
    pub(super) unsafe fn turn(&self, base: usize, seen: Range<usize>, heads: usize) {
        let Some((_, turns)) = self.call.bias else { return };
        let dim = self.call.layout.head_dim;
        for at in seen {
            // SAFETY: the span checks the position; the tile has `stride` floats for each.
            unsafe {
                let from = turns.slice::<f32>((base + at) * dim, dim);
                for head in 0..heads {
                    let to = self.tile(head).add(at * self.stride + self.padded);
                    to.copy_from_nonoverlapping(from.as_ptr(), dim);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn widen_f16<S: Simd>(from: &[u16], to: *mut f32) {
    // SAFETY: the caller gives room for `from`, padded to whole vectors.
    unsafe {
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

/// Widens a head's groups of codes of `BITS`, which come after `scale_bytes` of scales.
#[inline(always)]
unsafe fn widen_codes<S: Simd, const BITS: usize>(head: &[u8], scale_bytes: usize, to: *mut f32) {
    // Scales of a block.
    let each = if BITS == 8 { 1 } else { 2 };
    let (scales, codes) = head.split_at(scale_bytes);
    let some = scales.chunks(2 * LANES).zip(codes.chunks(LANES / each * GROUP * BITS / 8));
    for (first, (scales, codes)) in some.enumerate() {
        let mut floats = [0f32; LANES];
        let groups = codes.chunks_exact(GROUP * BITS / 8);
        // SAFETY: the caller gives room for all codes.
        unsafe {
            // What follows the scales comes with them, and is not looked at.
            let vector = match head.get(first * 2 * LANES..(first + 1) * 2 * LANES) {
                Some(whole) => S::load_f16(whole.as_ptr().cast()),
                None => few::<S>(scales),
            };
            S::store(floats.as_mut_ptr(), vector);
            for (i, (codes, scales)) in groups.zip(floats.chunks_exact(each)).enumerate() {
                let to = to.add((first * LANES / each + i) * GROUP);
                let [low, high] = match BITS {
                    8 => [S::load_i8(codes.as_ptr()), S::load_i8(codes.as_ptr().add(LANES))],
                    _ => S::load_halves(codes.as_ptr()),
                };
                S::store(to, S::mul(low, S::splat(scales[0])));
                S::store(to.add(LANES), S::mul(high, S::splat(scales[each - 1])));
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
