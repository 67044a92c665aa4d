//! Products of quantized weights: integers within a block of 32 columns, f32 from block to block.

use super::activations::BLOCK;
use super::expand::{Expanded, Format, Kind, Planes, QUANT_BYTES, Storage};
use super::simd::{LANES, Simd};

/// A chunk of weights and the same columns of a group of rows.
pub(super) struct Group<'a, T> {
    /// Scales of the chunk, and its quants if they have been unpacked.
    pub(super) weights: &'a Expanded,
    /// Where the chunk's quants lie, and what to ask for meanwhile as they are unpacked.
    pub(super) planes: &'a Planes<T>,
    pub(super) ahead: Option<&'a Planes<T>>,
    pub(super) count: usize,
    pub(super) quants: *const i8,
    pub(super) scales: *const f32,
    pub(super) corrections: *const i32,
    pub(super) sums: *mut [f32; LANES],
}

impl<T: Format> Group<'_, T> {
    /// Adds `count` blocks of products to `R` rows of sums: the one order of arithmetic of quantized
    /// layers. Integers are exact; each block then adds one rounded product. Quants are unpacked here if
    /// `UNPACK`.
    ///
    /// # Safety
    /// `S` must be available, and the pointers be to `R` rows of `count` blocks.
    #[inline(always)]
    pub(super) unsafe fn multiply<S: Simd, const R: usize, const UNPACK: bool>(&self) {
        // SAFETY: the maker of the group gave pointers to R rows of `count` blocks.
        unsafe {
            let mut sums = [S::splat(0.0); R];
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = S::load(self.sums.add(r).cast());
            }
            for b in 0..self.count {
                let mut unpacked = [0; QUANT_BYTES];
                let mut quants = self.weights.quants[b].as_ptr();
                if UNPACK {
                    if let Some(ahead) = self.ahead {
                        ahead.prefetch::<S>(b);
                    }
                    self.planes.unpack::<S>(b, &mut unpacked);
                    quants = unpacked.as_ptr();
                }
                for (part, sums) in sums.chunks_mut(S::SUMS).enumerate() {
                    let cell = b * R + part * S::SUMS;
                    match sums.len() {
                        8 => self.block::<S, 8>(b, quants, cell, sums),
                        4 => self.block::<S, 4>(b, quants, cell, sums),
                        2 => self.block::<S, 2>(b, quants, cell, sums),
                        _ => self.block::<S, 1>(b, quants, cell, sums),
                    }
                }
            }
            for (r, sum) in sums.into_iter().enumerate() {
                S::store(self.sums.add(r).cast(), sum);
            }
        }
    }

    /// Adds the products of one block to `R` rows of sums, whose x is at `cell` and after it.
    #[inline(always)]
    unsafe fn block<S: Simd, const R: usize>(
        &self,
        b: usize,
        quants: *const u8,
        cell: usize,
        sums: &mut [S::F],
    ) {
        // SAFETY: by the contract of `multiply`.
        unsafe {
            let x = self.quants.add(cell * BLOCK).cast::<i32>();
            let scale = S::load(self.weights.scales[b][0].as_ptr());
            let scales = self.scales.add(cell);
            match T::KIND {
                Kind::Halves => {
                    let second = S::load(self.weights.scales[b][1].as_ptr());
                    let pairs = self.corrections.add(cell * 2).cast::<[[i32; 2]; R]>().read();
                    let (mut low, mut high) = ([0; R], [0; R]);
                    for (r, [first, last]) in pairs.into_iter().enumerate() {
                        (low[r], high[r]) = (first, last);
                    }
                    let first = dots::<S, T, R, 4>(quants, x, low);
                    let last = dots::<S, T, R, 4>(quants.add(4 * 64), x.add(4), high);
                    for (r, sum) in sums.iter_mut().enumerate() {
                        let low = S::mul(scale, S::to_f32(first[r]));
                        let product = S::fma(second, S::to_f32(last[r]), low);
                        *sum = S::fma(product, S::splat(scales.add(r).read()), *sum);
                    }
                }
                Kind::Affine => {
                    let minimum = S::load(self.weights.minima[b].as_ptr());
                    let totals = self.corrections.add(cell).cast::<f32>();
                    let dots = dots::<S, T, R, 8>(quants, x, [0; R]);
                    for (r, sum) in sums.iter_mut().enumerate() {
                        let scaled = S::mul(scale, S::to_f32(dots[r]));
                        let product = S::fma(minimum, S::splat(totals.add(r).read()), scaled);
                        *sum = S::fma(product, S::splat(scales.add(r).read()), *sum);
                    }
                }
                Kind::Centred => {
                    let init = self.corrections.add(cell).cast::<[i32; R]>().read();
                    let dots = dots::<S, T, R, 8>(quants, x, init);
                    for (r, sum) in sums.iter_mut().enumerate() {
                        let product = S::mul(scale, S::to_f32(dots[r]));
                        *sum = S::fma(product, S::splat(scales.add(r).read()), *sum);
                    }
                }
            }
        }
    }
}

/// [`Simd::dots`] of the weights' bits.
#[inline(always)]
unsafe fn dots<S: Simd, T: Format, const R: usize, const N: usize>(
    w: *const u8,
    x: *const i32,
    init: [i32; R],
) -> [S::I; R] {
    // SAFETY: by contract.
    unsafe {
        match T::STORAGE {
            Storage::Nibbles => S::dots::<R, N, 4>(w, x, init),
            Storage::Five => S::dots::<R, N, 5>(w, x, init),
            Storage::Six => S::dots::<R, N, 6>(w, x, init),
            Storage::Whole => S::dots::<R, N, 8>(w, x, init),
        }
    }
}
