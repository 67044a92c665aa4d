//! Packed weights to what the micro-kernels multiply with: bytes and f32 scales, a chunk of columns
//! at a time. The only place that knows the planes of quantized types in [`Packing`].

use super::activations::{BLOCK, Correction};
use super::simd::{LANES, Simd};
use super::span::Span;
use crate::quant::{DType, Packing};
use std::marker::PhantomData;

/// Blocks of 32 columns expanded at a time; a multiple of a super-block's eight.
pub(super) const CHUNK: usize = 16;

/// Bytes of a block's quants: `[8][16 rows][4 columns]`.
pub(super) const QUANT_BYTES: usize = LANES * BLOCK;

/// A chunk of one tile of quantized weights, ready to multiply; where rows are few, its scales alone.
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
    /// Scale and minimum.
    Affine,
    /// One scale per 16 columns, quants centred.
    Halves,
}

/// How a type's quants are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Storage {
    /// 4 bits.
    Nibbles,
    /// 4 bits and a plane of fifth bits.
    Five,
    /// 4 bits and a plane of pairs.
    Six,
    /// 8 bits.
    Whole,
}

/// What a kernel for a quantized type is made of; a parameter of the kernel.
pub(super) trait Format {
    const KIND: Kind;
    const STORAGE: Storage;
    /// What the type needs to know of x.
    const CORRECTION: Correction;

    /// Bytes per block in the planes of quants and of high bits.
    const PLANES: (usize, usize) = match Self::STORAGE {
        Storage::Nibbles => (256, 0),
        Storage::Five => (256, 64),
        Storage::Six => (256, 128),
        Storage::Whole => (512, 0),
    };
}

macro_rules! formats {
    ($($name:ident: $kind:ident $storage:ident $correction:ident;)*) => {$(
        pub(super) struct $name;

        impl Format for $name {
            const KIND: Kind = Kind::$kind;
            const STORAGE: Storage = Storage::$storage;
            const CORRECTION: Correction = Correction::$correction;
        }
    )*};
}

formats! {
    Centred4: Centred Nibbles Centre8;
    Centred5: Centred Five Centre16;
    Centred8: Centred Whole CentreByte;
    Affine4: Affine Nibbles Sum;
    Affine5: Affine Five Sum;
    Halves6: Halves Six Halves32;
}

/// The correction of x that a quantized type needs.
pub(super) fn correction(dtype: DType) -> Correction {
    match dtype {
        DType::Q4_0 => Centred4::CORRECTION,
        DType::Q5_0 => Centred5::CORRECTION,
        DType::Q8_0 => Centred8::CORRECTION,
        DType::Q4_1 | DType::Q4K => Affine4::CORRECTION,
        DType::Q5_1 | DType::Q5K => Affine5::CORRECTION,
        DType::Q6K => Halves6::CORRECTION,
        DType::F32 | DType::F16 | DType::BF16 => unreachable!("floats are not rounded"),
    }
}

/// Where the quants of a tile's blocks lie, from one block on.
pub(super) struct Planes<T> {
    low: *const u8,
    high: *const u8,
    format: PhantomData<T>,
}

impl<T: Format> Planes<T> {
    /// From block `first` of the tile at `tile` on.
    #[inline(always)]
    pub(super) fn new(packing: &Packing, tile: *const u8, first: usize) -> Planes<T> {
        let (low, high) = T::PLANES;
        Planes {
            low: tile.wrapping_add(first * low),
            high: tile.wrapping_add(packing.high_at() + first * high),
            format: PhantomData,
        }
    }

    /// Asks for the quants of block `b`.
    #[inline(always)]
    pub(super) unsafe fn prefetch<S: Simd>(&self, b: usize) {
        let (low, high) = T::PLANES;
        // SAFETY: a prefetch may name any address.
        unsafe {
            prefetch::<S>(self.low.wrapping_add(b * low), low);
            prefetch::<S>(self.high.wrapping_add(b * high), high);
        }
    }

    /// Quants of block `b`: `[column / 4][row][column % 4]`.
    ///
    /// # Safety
    /// `S` must be available, and the block readable.
    #[inline(always)]
    pub(super) unsafe fn unpack<S: Simd>(&self, b: usize, to: &mut [u8; QUANT_BYTES]) {
        let (low, high) = T::PLANES;
        // SAFETY: by contract.
        unsafe {
            let (low, high, to) = (self.low.add(b * low), self.high.add(b * high), to.as_mut_ptr());
            unpack_group::<S, T, 0, { -4 }, { -4 }>(low, high, to);
            unpack_group::<S, T, 1, { -3 }, { -2 }>(low, high, to);
            unpack_group::<S, T, 2, { -2 }, 0>(low, high, to);
            unpack_group::<S, T, 3, { -1 }, 2>(low, high, to);
            unpack_group::<S, T, 4, 0, { -4 }>(low, high, to);
            unpack_group::<S, T, 5, 1, { -2 }>(low, high, to);
            unpack_group::<S, T, 6, 2, 0>(low, high, to);
            unpack_group::<S, T, 7, 3, 2>(low, high, to);
        }
    }
}

/// Columns `4 * G..4 * G + 4` of sixteen rows. `FIFTH` is how far right bit `G` moves to become bit 4,
/// `PAIR` how far right bits `2 * (G % 4)` and the next one move to become bits 4 and 5.
#[inline(always)]
unsafe fn unpack_group<S: Simd, T: Format, const G: usize, const FIFTH: i32, const PAIR: i32>(
    low: *const u8,
    high: *const u8,
    to: *mut u8,
) {
    // SAFETY: by the contract of `Planes::unpack`.
    unsafe {
        let quants = if T::STORAGE == Storage::Whole {
            S::flip(S::load_bytes(low.add(G * 64)), S::BYTE_BIAS)
        } else {
            let nibbles = S::load_bytes(low.add(G % 4 * 64));
            let nibbles =
                if G < 4 { S::field::<0>(nibbles, 0xF) } else { S::field::<4>(nibbles, 0xF) };
            match T::STORAGE {
                Storage::Five => S::or(nibbles, S::field::<FIFTH>(S::load_bytes(high), 0x10)),
                Storage::Six => {
                    let pairs = S::load_bytes(high.add(G / 4 * 64));
                    S::or(nibbles, S::field::<PAIR>(pairs, 0x30))
                }
                Storage::Nibbles | Storage::Whole => nibbles,
            }
        };
        S::store_bytes(to.add(G * 64), quants);
    }
}

/// Asks for `count` bytes from `from` on.
#[inline(always)]
unsafe fn prefetch<S: Simd>(from: *const u8, count: usize) {
    for at in (0..count).step_by(64) {
        // SAFETY: a prefetch may name any address.
        unsafe { S::prefetch(from.wrapping_add(at)) };
    }
}

/// Asks for the scales of a chunk of blocks from `first` on of the tile at `tile`.
#[inline(always)]
pub(super) unsafe fn prefetch_scales<S: Simd>(packing: &Packing, tile: *const u8, first: usize) {
    // Bytes per block.
    let (scales, supers) = match packing.dtype {
        DType::Q4_0 | DType::Q5_0 | DType::Q8_0 => (32, 0),
        DType::Q4_1 | DType::Q5_1 => (64, 0),
        DType::Q4K | DType::Q5K => (24, 8),
        DType::Q6K => (32, 4),
        DType::F32 | DType::F16 | DType::BF16 => (0, 0),
    };
    // SAFETY: a prefetch may name any address.
    unsafe {
        prefetch::<S>(tile.wrapping_add(packing.scales_at() + first * scales), CHUNK * scales);
        prefetch::<S>(tile.wrapping_add(packing.super_at() + first * supers), CHUNK * supers);
    }
}

/// Expands the scales and minima of blocks `first..first + count`, whole super-blocks.
///
/// # Safety
/// `S` must be available, and nobody writes the tile.
#[inline(always)]
pub(super) unsafe fn expand_scales<S: Simd>(
    packing: &Packing,
    tile: Span,
    first: usize,
    count: usize,
    to: &mut Expanded,
) {
    let at = packing.scales_at();
    // SAFETY: slices are checked against the tile; f16 loads read sixteen halves of a checked slice.
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
                        let mut code = [0.0f32; LANES];
                        for (lane, code) in code.iter_mut().enumerate() {
                            *code = f32::from(codes[2 * lane + half]);
                        }
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
pub(super) unsafe fn halves<S: Simd>(words: &[u32; LANES]) -> (S::F, S::F) {
    let (mut low, mut high) = ([0u16; LANES], [0u16; LANES]);
    for i in 0..LANES {
        (low[i], high[i]) = (words[i] as u16, (words[i] >> 16) as u16);
    }
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
    let (mut scales, mut minima) = ([[0u32; LANES]; 2], [[0u32; LANES]; 2]);
    for i in 0..LANES {
        (scales[0][i], minima[0][i]) = (a[i] & SIX, b[i] & SIX);
        scales[1][i] = c[i] & FOUR | a[i] >> 2 & TOP;
        minima[1][i] = c[i] >> 4 & FOUR | b[i] >> 2 & TOP;
    }
    for j in 0..8 {
        let (mut scale, mut minimum) = ([0.0f32; LANES], [0.0f32; LANES]);
        for i in 0..LANES {
            scale[i] = (scales[j / 4][i] >> (j % 4 * 8) & 63) as i32 as f32;
            minimum[i] = (minima[j / 4][i] >> (j % 4 * 8) & 63) as i32 as f32;
        }
        // SAFETY: sixteen lanes each.
        unsafe {
            let scale = S::mul(d, S::load(scale.as_ptr()));
            let minimum = S::mul(S::sub(S::splat(0.0), dmin), S::load(minimum.as_ptr()));
            S::store(to.scales[block + j][0].as_mut_ptr(), scale);
            S::store(to.minima[block + j].as_mut_ptr(), minimum);
        }
    }
}
