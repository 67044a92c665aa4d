//! Linear layers: a unit of work is one tile of 16 outputs times a block of rows.

use super::activations::{BLOCK, Rounded, group_len};
use super::expand::{
    Affine4, Affine5, CHUNK, Centred4, Centred5, Centred8, Expanded, FLOAT_CHUNK, Format, Halves6,
    Kind, Planes, QUANT_BYTES, Storage, expand_floats, expand_scales, prefetch_scales,
};
use super::simd::{LANES, Simd, Task};
use super::span::Span;
use crate::quant::{DType, Packing};
use std::ops::Range;

/// Rows of x that share one expansion of a tile's chunk.
pub(super) const ROW_BLOCK: usize = 128;

/// With at most this many rows a layer is bound by memory: weights go from there through registers, and
/// unpacking them again for each group of rows costs less than keeping them.
const FEW: usize = 16;

/// Blocks between what is multiplied and what is asked for: whole chunks.
const AHEAD: usize = 2 * CHUNK;

/// One matrix of a linear call.
#[derive(Clone, Debug)]
pub(super) struct Product {
    pub(super) packing: Packing,
    pub(super) weights: Span,
    pub(super) bias: Option<Span>,
    pub(super) out: Span,
    /// First output feature and features of a row of `out`; see [`crate::kernel::Projection`].
    pub(super) first: usize,
    pub(super) stride: usize,
}

/// x as the weights want it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Input {
    /// `[rows][cols]` f32.
    Exact(Span),
    /// Rounded to 8 bits.
    Rounded(Rounded),
}

/// Working memory of one thread.
#[repr(C, align(64))]
pub(super) struct Bench {
    sums: [[f32; LANES]; ROW_BLOCK],
    expanded: Expanded,
    floats: [[f32; LANES]; FLOAT_CHUNK],
}

/// One unit: tile `tile`, rows `start..end` (`start` a multiple of [`ROW_BLOCK`]).
pub(super) struct Tile<'a> {
    pub(super) product: &'a Product,
    pub(super) input: Input,
    pub(super) rows: usize,
    pub(super) tile: usize,
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) bench: *mut Bench,
}

impl Task for Tile<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the bench belongs to this thread; all access is checked or sized by the call.
        unsafe {
            let bench = &mut *self.bench;
            let count = self.end - self.start;
            bench.sums[..count].fill([0.0; LANES]);
            match self.input {
                Input::Exact(x) => self.floats::<S>(x, bench),
                Input::Rounded(x) => match self.product.packing.dtype {
                    DType::Q4_0 => self.quantized::<S, Centred4>(x, bench),
                    DType::Q5_0 => self.quantized::<S, Centred5>(x, bench),
                    DType::Q8_0 => self.quantized::<S, Centred8>(x, bench),
                    DType::Q4_1 | DType::Q4K => self.quantized::<S, Affine4>(x, bench),
                    DType::Q5_1 | DType::Q5K => self.quantized::<S, Affine5>(x, bench),
                    DType::Q6K => self.quantized::<S, Halves6>(x, bench),
                    DType::F32 | DType::F16 | DType::BF16 => unreachable!("floats see x exact"),
                },
            }
            self.finish::<S>(&bench.sums[..count]);
        }
    }
}

impl Tile<'_> {
    fn weights(&self) -> Span {
        self.product.weights.skip(self.tile * self.product.packing.tile_bytes())
    }

    #[inline(always)]
    unsafe fn quantized<S: Simd, T: Format>(&self, x: Rounded, bench: &mut Bench) {
        let packing = &self.product.packing;
        let (weights, blocks) = (self.weights(), packing.blocks());
        let tile = weights.at::<u8>(0, packing.tile_bytes()).cast_const();
        let few = self.end - self.start <= FEW;
        for first in (0..blocks).step_by(CHUNK) {
            let part = first..blocks.min(first + CHUNK);
            let planes = Planes::<T>::new(packing, tile, first);
            let (next, then) = self.ahead(tile, first);
            let ahead = Planes::<T>::new(packing, next, then);
            // SAFETY: the tile is read only and has the planes of all its blocks.
            unsafe {
                expand_scales::<S>(packing, weights, first, part.len(), &mut bench.expanded);
                prefetch_scales::<S>(packing, next, then);
                if few {
                    self.groups::<S, T, true>(x, part, [&planes, &ahead], bench);
                } else {
                    for (b, to) in bench.expanded.quants[..part.len()].iter_mut().enumerate() {
                        planes.unpack::<S>(b, to);
                        ahead.prefetch::<S>(b);
                    }
                    self.groups::<S, T, false>(x, part, [&planes, &ahead], bench);
                }
            }
        }
    }

    /// The tile and block to ask for while the chunk at `first` is multiplied: as far ahead as loads
    /// take, in this tile or the next.
    #[inline(always)]
    fn ahead(&self, tile: *const u8, first: usize) -> (*const u8, usize) {
        let packing = &self.product.packing;
        let (blocks, at) = (packing.blocks(), first + AHEAD);
        match at < blocks {
            true => (tile, at),
            false => (
                tile.wrapping_add(packing.tile_bytes()),
                (at - blocks.next_multiple_of(CHUNK)) % blocks,
            ),
        }
    }

    /// Adds the products of blocks `part` to all rows; their quants are expanded, or else unpacked from
    /// their planes as they are used.
    #[inline(always)]
    unsafe fn groups<S: Simd, T: Format, const UNPACK: bool>(
        &self,
        x: Rounded,
        part: Range<usize>,
        [planes, ahead]: [&Planes<T>; 2],
        bench: &mut Bench,
    ) {
        let (first, count) = (part.start, part.len());
        let mut start = self.start;
        while start < self.end {
            let len = group_len(start, self.rows);
            let group = Group {
                weights: &bench.expanded,
                planes,
                ahead,
                count,
                quants: x.quants(start, len, first, count),
                scales: x.scales(start, len, first, count),
                corrections: x.corrections(start, len, first, count, T::CORRECTION),
                sums: bench.sums[start - self.start..][..len].as_mut_ptr(),
            };
            // SAFETY: `x` gives pointers to `count` blocks of the group; sums has its rows.
            unsafe {
                match len {
                    8 => group.multiply::<S, 8, UNPACK>(),
                    4 => group.multiply::<S, 4, UNPACK>(),
                    2 => group.multiply::<S, 2, UNPACK>(),
                    _ => group.multiply::<S, 1, UNPACK>(),
                }
            }
            start += len;
        }
    }

    #[inline(always)]
    unsafe fn floats<S: Simd>(&self, x: Span, bench: &mut Bench) {
        let packing = &self.product.packing;
        let weights = self.weights();
        let cols = packing.cols;
        for first in (0..cols).step_by(FLOAT_CHUNK) {
            let count = FLOAT_CHUNK.min(cols - first);
            let floats = &mut bench.floats[..count];
            // SAFETY: row pointers are checked for `count` columns; sums has the group's rows.
            unsafe {
                expand_floats::<S>(packing, weights, first, floats);
                let mut start = self.start;
                while start < self.end {
                    let len = group_len(start, self.rows);
                    let sums = bench.sums[start - self.start..][..len].as_mut_ptr();
                    let rows = x.at::<f32>(start * cols + first, (len - 1) * cols + count);
                    match len {
                        8 if S::SUMS < 8 => {
                            multiply_floats::<S, 4>(floats, rows, cols, sums);
                            multiply_floats::<S, 4>(floats, rows.add(4 * cols), cols, sums.add(4));
                        }
                        8 => multiply_floats::<S, 8>(floats, rows, cols, sums),
                        4 => multiply_floats::<S, 4>(floats, rows, cols, sums),
                        2 => multiply_floats::<S, 2>(floats, rows, cols, sums),
                        _ => multiply_floats::<S, 1>(floats, rows, cols, sums),
                    }
                    start += len;
                }
            }
        }
    }

    /// Adds the bias and writes the outputs that exist.
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, sums: &[[f32; LANES]]) {
        let Product { first, stride, .. } = *self.product;
        let lanes = LANES.min(self.product.packing.rows - self.tile * LANES);
        let first = first + self.tile * LANES;
        let mut bias = [0.0f32; LANES];
        // SAFETY: this unit alone writes these outputs; the bias is only read.
        unsafe {
            if let Some(from) = self.product.bias {
                bias[..lanes].copy_from_slice(from.slice::<f32>(first, lanes));
            }
            let bias = S::load(bias.as_ptr());
            for (r, sums) in sums.iter().enumerate() {
                let out = self.product.out.at::<f32>((self.start + r) * stride + first, lanes);
                let sum = S::add(S::load(sums.as_ptr()), bias);
                if lanes == LANES {
                    S::store(out, sum);
                } else {
                    let mut all = [0.0f32; LANES];
                    S::store(all.as_mut_ptr(), sum);
                    out.copy_from_nonoverlapping(all.as_ptr(), lanes);
                }
            }
        }
    }
}

/// A chunk of weights and the same columns of a group of rows.
struct Group<'a, T> {
    weights: &'a Expanded,
    planes: &'a Planes<T>,
    ahead: &'a Planes<T>,
    count: usize,
    quants: *const i8,
    scales: *const f32,
    corrections: *const i32,
    sums: *mut [f32; LANES],
}

impl<T: Format> Group<'_, T> {
    /// Adds `count` blocks of products to `R` rows of sums: the one order of arithmetic of quantized
    /// layers. Integers are exact; each block then adds one rounded product.
    #[inline(always)]
    unsafe fn multiply<S: Simd, const R: usize, const UNPACK: bool>(&self) {
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
                    self.ahead.prefetch::<S>(b);
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

/// Adds the products of a chunk of columns to `R` rows of sums, one column after the other.
#[inline(always)]
unsafe fn multiply_floats<S: Simd, const R: usize>(
    weights: &[[f32; LANES]],
    rows: *const f32,
    stride: usize,
    to: *mut [f32; LANES],
) {
    // SAFETY: each row has as many columns as there are weights; `to` has R rows.
    unsafe {
        let mut sums = [S::splat(0.0); R];
        for (r, sum) in sums.iter_mut().enumerate() {
            *sum = S::load(to.add(r).cast());
        }
        for (k, w) in weights.iter().enumerate() {
            let w = S::load(w.as_ptr());
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = S::fma(S::splat(rows.add(r * stride + k).read()), w, *sum);
            }
        }
        for (r, sum) in sums.into_iter().enumerate() {
            S::store(to.add(r).cast(), sum);
        }
    }
}
