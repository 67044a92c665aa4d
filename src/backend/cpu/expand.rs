//! Packed weights to what the micro-kernels multiply with: bytes and f32 scales, a chunk of columns
//! at a time. The only place that knows the planes of [`Packing`].

use super::activations::{BLOCK, Correction};
use super::buffer::Span;
use super::simd::{LANES, Simd};
use crate::quant::{DType, Packing};

/// Blocks of 32 columns expanded at a time; a multiple of a super-block's eight.
pub(super) const CHUNK: usize = 16;

/// Columns of float weights expanded at a time.
pub(super) const FLOAT_CHUNK: usize = 128;

/// Bytes of a block's quants: `[8][16 rows][4 columns]`.
pub(super) const QUANT_BYTES: usize = LANES * BLOCK;

/// A chunk of one tile of quantized weights, ready to multiply.
#[repr(C, align(64))]
pub(super) struct Expanded {
    /// Unsigned quants, `[block][column / 4][row][column % 4]`.
    pub(super) quants: [[u8; QUANT_BYTES]; CHUNK],
    /// Scale of each row, `[block]`; of each half of 16 columns for Q6_K.
    pub(super) scales: [[[f32; LANES]; 2]; CHUNK],
    /// What to add per unit of x: minimum of each row.
    pub(super) minima: [[f32; LANES]; CHUNK],
}

/// How a type's products are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One scale, quants centred.
    Centred,
    /// One scale, 8-bit quants centred.
    Bytes,
    /// Scale and minimum.
    Affine,
    /// One scale per 16 columns, quants centred.
    Halves,
}

/// The kind of a quantized type and the correction it needs.
pub(super) fn kind(dtype: DType) -> (Kind, Correction) {
    match dtype {
        DType::Q4_0 => (Kind::Centred, Correction::Centre8),
        DType::Q5_0 => (Kind::Centred, Correction::Centre16),
        DType::Q8_0 => (Kind::Bytes, Correction::CentreByte),
        DType::Q4_1 | DType::Q5_1 | DType::Q4K | DType::Q5K => (Kind::Affine, Correction::Sum),
        DType::Q6K => (Kind::Halves, Correction::Halves32),
        DType::F32 | DType::F16 | DType::BF16 => unreachable!("floats are not rounded"),
    }
}

/// Expands blocks `first..first + count` of a tile.
///
/// # Safety
/// `S` must be available, and nobody writes the tile.
#[inline(always)]
pub(super) unsafe fn expand<S: Simd>(
    packing: &Packing,
    tile: Span,
    first: usize,
    count: usize,
    to: &mut Expanded,
) {
    // SAFETY: slices are checked against the tile, which nobody writes.
    unsafe {
        let low = |each: usize| tile.slice::<u8>(first * each, count * each);
        let high = |each: usize| tile.slice::<u8>(packing.high_at() + first * each, count * each);
        let quants = &mut to.quants[..count];
        match packing.dtype {
            DType::Q4_0 | DType::Q4_1 | DType::Q4K => {
                for (q, to) in low(256).as_chunks::<256>().0.iter().zip(quants) {
                    nibbles(q, to);
                }
            }
            DType::Q5_0 | DType::Q5_1 | DType::Q5K => {
                let low = low(256).as_chunks::<256>().0.iter();
                for ((q, h), to) in low.zip(high(64).as_chunks::<64>().0).zip(quants) {
                    nibbles(q, to);
                    fifth_bits(h, to);
                }
            }
            DType::Q6K => {
                let low = low(256).as_chunks::<256>().0.iter();
                for ((q, h), to) in low.zip(high(128).as_chunks::<128>().0).zip(quants) {
                    nibbles(q, to);
                    top_pairs(h, to);
                }
            }
            DType::Q8_0 => {
                for (q, to) in low(512).as_chunks::<512>().0.iter().zip(quants) {
                    for (q, to) in q.iter().zip(to) {
                        *to = q ^ S::BYTE_BIAS;
                    }
                }
            }
            DType::F32 | DType::F16 | DType::BF16 => unreachable!("floats have no quants"),
        }
        expand_scales::<S>(packing, tile, first, count, to);
    }
}

/// Low nibbles are columns 0..16, high nibbles 16..32.
#[inline(always)]
fn nibbles(q: &[u8; 256], to: &mut [u8; QUANT_BYTES]) {
    let (low, high) = to.split_at_mut(256);
    for i in 0..256 {
        low[i] = q[i] & 0xF;
        high[i] = q[i] >> 4;
    }
}

#[inline(always)]
fn fifth_bits(h: &[u8; 64], to: &mut [u8; QUANT_BYTES]) {
    for (g, to) in to.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        for (to, h) in to.iter_mut().zip(h) {
            *to |= (h >> g & 1) << 4;
        }
    }
}

#[inline(always)]
fn top_pairs(h: &[u8; 128], to: &mut [u8; QUANT_BYTES]) {
    for (g, to) in to.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        for (to, h) in to.iter_mut().zip(&h[g / 4 * 64..]) {
            *to |= (h >> (g % 4 * 2) & 3) << 4;
        }
    }
}

/// # Safety
/// As for [`expand`].
#[inline(always)]
unsafe fn expand_scales<S: Simd>(
    packing: &Packing,
    tile: Span,
    first: usize,
    count: usize,
    to: &mut Expanded,
) {
    let at = packing.scales_at();
    // SAFETY: as in `expand`; f16 loads read sixteen halves of a checked slice.
    unsafe {
        match packing.dtype {
            DType::Q4_0 | DType::Q5_0 | DType::Q8_0 => {
                let scales = tile.slice::<[u16; LANES]>(at / 32 + first, count);
                for (d, to) in scales.iter().zip(&mut to.scales) {
                    S::store(to[0].as_mut_ptr(), S::load_f16(d.as_ptr()));
                }
            }
            DType::Q4_1 | DType::Q5_1 => {
                let words = tile.slice::<u32>(at / 4 + first * LANES, count * LANES);
                for (i, words) in words.as_chunks::<LANES>().0.iter().enumerate() {
                    let (scale, minimum) = halves::<S>(words);
                    S::store(to.scales[i][0].as_mut_ptr(), scale);
                    S::store(to.minima[i].as_mut_ptr(), minimum);
                }
            }
            DType::Q4K | DType::Q5K => {
                for s in 0..count / 8 {
                    let index = first / 8 + s;
                    let codes = tile.slice::<[u32; LANES]>((at + index * 192) / 64, 3);
                    let supers = tile.slice::<u32>(packing.super_at() / 4 + index * LANES, LANES);
                    let (d, dmin) = halves::<S>(supers.as_chunks::<LANES>().0.first().unwrap());
                    k_scales::<S>(codes, d, dmin, s * 8, to);
                }
            }
            DType::Q6K => {
                let codes = tile.slice::<[i8; 2 * LANES]>(at / 32 + first, count);
                for (i, codes) in codes.iter().enumerate() {
                    let index = packing.super_at() / 32 + (first + i) / 8;
                    let d = S::load_f16(tile.slice::<[u16; LANES]>(index, 1)[0].as_ptr());
                    for half in 0..2 {
                        let code: [f32; LANES] =
                            std::array::from_fn(|lane| f32::from(codes[2 * lane + half]));
                        let scale = S::mul(d, S::load(code.as_ptr()));
                        S::store(to.scales[i][half].as_mut_ptr(), scale);
                    }
                }
            }
            DType::F32 | DType::F16 | DType::BF16 => unreachable!("floats have no scales"),
        }
    }
}

/// The low and the high f16 of sixteen words.
#[inline(always)]
unsafe fn halves<S: Simd>(words: &[u32; LANES]) -> (S::F, S::F) {
    let low = words.map(|w| w as u16);
    let high = words.map(|w| (w >> 16) as u16);
    // SAFETY: both arrays have sixteen halves.
    unsafe { (S::load_f16(low.as_ptr()), S::load_f16(high.as_ptr())) }
}

/// Scales and minima of the eight sub-blocks of a super-block, from its 6-bit codes
/// ([`crate::quant::k_scale_min`] on four sub-blocks at once).
#[inline(always)]
unsafe fn k_scales<S: Simd>(
    codes: &[[u32; LANES]],
    d: S::F,
    dmin: S::F,
    block: usize,
    to: &mut Expanded,
) {
    const SIX: u32 = 0x3F3F_3F3F;
    const FOUR: u32 = 0x0F0F_0F0F;
    const TOP: u32 = 0x3030_3030;
    let [a, b, c] = codes else { return };
    let scales: [[u32; LANES]; 2] =
        [a.map(|a| a & SIX), std::array::from_fn(|i| c[i] & FOUR | a[i] >> 2 & TOP)];
    let minima: [[u32; LANES]; 2] =
        [b.map(|b| b & SIX), std::array::from_fn(|i| c[i] >> 4 & FOUR | b[i] >> 2 & TOP)];
    for j in 0..8 {
        let code = |from: &[[u32; LANES]; 2]| from[j / 4].map(|w| (w >> (j % 4 * 8) & 63) as f32);
        let (scale, minimum) = (code(&scales), code(&minima));
        // SAFETY: sixteen lanes each.
        unsafe {
            let scale = S::mul(d, S::load(scale.as_ptr()));
            let minimum = S::mul(S::sub(S::splat(0.0), dmin), S::load(minimum.as_ptr()));
            S::store(to.scales[block + j][0].as_mut_ptr(), scale);
            S::store(to.minima[block + j].as_mut_ptr(), minimum);
        }
    }
}

/// Expands columns `first..first + to.len()` of a tile of float weights; `first` is even.
///
/// # Safety
/// As for [`expand`].
#[inline(always)]
pub(super) unsafe fn expand_floats<S: Simd>(
    packing: &Packing,
    tile: Span,
    first: usize,
    to: &mut [[f32; LANES]],
) {
    // SAFETY: as in `expand`.
    unsafe {
        if packing.dtype == DType::F32 {
            let words = tile.slice::<f32>(first * LANES, to.len() * LANES);
            to.copy_from_slice(words.as_chunks().0);
            return;
        }
        let pairs = to.len().div_ceil(2);
        let words = tile.slice::<u32>(first / 2 * LANES, pairs * LANES);
        for (words, to) in words.as_chunks::<LANES>().0.iter().zip(to.chunks_mut(2)) {
            if packing.dtype == DType::F16 {
                let (even, odd) = halves::<S>(words);
                S::store(to[0].as_mut_ptr(), even);
                if let Some(to) = to.get_mut(1) {
                    S::store(to.as_mut_ptr(), odd);
                }
            } else {
                to[0] = words.map(|w| f32::from_bits(w << 16));
                if let Some(to) = to.get_mut(1) {
                    *to = words.map(|w| f32::from_bits(w & 0xFFFF_0000));
                }
            }
        }
    }
}
