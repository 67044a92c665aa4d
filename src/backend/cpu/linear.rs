//! Linear layers: a unit of work is one tile of 16 outputs times a block of rows.

use super::activations::{BLOCK, Correction, Rounded, group_len};
use super::buffer::Span;
use super::expand::{CHUNK, Expanded, FLOAT_CHUNK, Kind, expand, expand_floats, kind};
use super::simd::{LANES, Simd, Task};
use crate::quant::Packing;

/// Rows of x that share one expansion of a tile's chunk.
pub(super) const ROW_BLOCK: usize = 128;

/// One matrix of a linear call.
#[derive(Clone, Debug)]
pub(super) struct Product {
    pub(super) packing: Packing,
    pub(super) weights: Span,
    pub(super) bias: Option<Span>,
    pub(super) out: Span,
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
                Input::Rounded(x) => {
                    let (kind, correction) = kind(self.product.packing.dtype);
                    match kind {
                        Kind::Centred => self.quantized::<S, CENTRED>(x, correction, bench),
                        Kind::Bytes => self.quantized::<S, BYTES>(x, correction, bench),
                        Kind::Affine => self.quantized::<S, AFFINE>(x, correction, bench),
                        Kind::Halves => self.quantized::<S, HALVES>(x, correction, bench),
                    }
                }
            }
            self.finish(&bench.sums[..count]);
        }
    }
}

const CENTRED: u8 = Kind::Centred as u8;
const BYTES: u8 = Kind::Bytes as u8;
const AFFINE: u8 = Kind::Affine as u8;
const HALVES: u8 = Kind::Halves as u8;

impl Tile<'_> {
    fn weights(&self) -> Span {
        self.product.weights.skip(self.tile * self.product.packing.tile_bytes())
    }

    #[inline(always)]
    unsafe fn quantized<S: Simd, const KIND: u8>(
        &self,
        x: Rounded,
        correction: Correction,
        bench: &mut Bench,
    ) {
        let packing = &self.product.packing;
        let weights = self.weights();
        for first in (0..packing.blocks()).step_by(CHUNK) {
            let count = CHUNK.min(packing.blocks() - first);
            // SAFETY: `x` gives pointers to `count` blocks of the group; sums has its rows.
            unsafe {
                expand::<S>(packing, weights, first, count, &mut bench.expanded);
                let mut start = self.start;
                while start < self.end {
                    let len = group_len(start, self.rows);
                    let group = Group {
                        weights: &bench.expanded,
                        count,
                        quants: x.quants(start, len, first, count),
                        scales: x.scales(start, len, first, count),
                        corrections: x.corrections(start, len, first, count, correction),
                        sums: bench.sums[start - self.start..][..len].as_mut_ptr(),
                    };
                    match len {
                        8 => group.multiply::<S, KIND, 8>(),
                        4 => group.multiply::<S, KIND, 4>(),
                        2 => group.multiply::<S, KIND, 2>(),
                        _ => group.multiply::<S, KIND, 1>(),
                    }
                    start += len;
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn floats<S: Simd>(&self, x: Span, bench: &mut Bench) {
        let packing = &self.product.packing;
        let weights = self.weights();
        for first in (0..packing.cols).step_by(FLOAT_CHUNK) {
            let count = FLOAT_CHUNK.min(packing.cols - first);
            let floats = &mut bench.floats[..count];
            // SAFETY: row pointers are checked for `count` columns; sums has the group's rows.
            unsafe {
                expand_floats::<S>(packing, weights, first, floats);
                let mut start = self.start;
                while start < self.end {
                    let len = group_len(start, self.rows);
                    let sums = bench.sums[start - self.start..][..len].as_mut_ptr();
                    let row = |r: usize| {
                        x.at::<f32>((start + r) * packing.cols + first, count).cast_const()
                    };
                    match len {
                        8 => multiply_floats::<S, 8>(floats, row, sums),
                        4 => multiply_floats::<S, 4>(floats, row, sums),
                        2 => multiply_floats::<S, 2>(floats, row, sums),
                        _ => multiply_floats::<S, 1>(floats, row, sums),
                    }
                    start += len;
                }
            }
        }
    }

    /// Adds the bias and writes the outputs that exist.
    #[inline(always)]
    unsafe fn finish(&self, sums: &[[f32; LANES]]) {
        let width = self.product.packing.rows;
        let first = self.tile * LANES;
        let lanes = LANES.min(width - first);
        // SAFETY: this unit alone writes these outputs; the bias is only read.
        unsafe {
            let bias = self.product.bias.map(|bias| bias.slice::<f32>(first, lanes));
            for (r, sums) in sums.iter().enumerate() {
                let out =
                    self.product.out.slice_mut::<f32>((self.start + r) * width + first, lanes);
                match bias {
                    Some(bias) => {
                        for ((out, sum), bias) in out.iter_mut().zip(sums).zip(bias) {
                            *out = sum + bias;
                        }
                    }
                    None => out.copy_from_slice(&sums[..lanes]),
                }
            }
        }
    }
}

/// A chunk of weights and the same columns of a group of rows.
struct Group<'a> {
    weights: &'a Expanded,
    count: usize,
    quants: *const i8,
    scales: *const f32,
    corrections: *const i32,
    sums: *mut [f32; LANES],
}

impl Group<'_> {
    /// Adds `count` blocks of products to `R` rows of sums: the one order of arithmetic of quantized
    /// layers. Integers are exact; each block then adds one rounded product.
    #[inline(always)]
    unsafe fn multiply<S: Simd, const KIND: u8, const R: usize>(&self) {
        // SAFETY: the maker of the group gave pointers to R rows of `count` blocks.
        unsafe {
            let mut sums: [S::F; R] = std::array::from_fn(|r| S::load(self.sums.add(r).cast()));
            for b in 0..self.count {
                let quants = self.weights.quants[b].as_ptr();
                let w: [S::W; 8] = std::array::from_fn(|g| S::load_bytes(quants.add(g * 64)));
                let scale = S::load(self.weights.scales[b][0].as_ptr());
                for (r, sum) in sums.iter_mut().enumerate() {
                    let cell = b * R + r;
                    let x = self.quants.add(cell * BLOCK).cast::<i32>();
                    let product = if KIND == HALVES {
                        let second = S::load(self.weights.scales[b][1].as_ptr());
                        let init = self.corrections.add(cell * 2);
                        let low = dot::<S, 4, KIND>(&w, x, init.read());
                        let high = dot::<S, 4, KIND>(&w[4..], x.add(4), init.add(1).read());
                        S::fma(second, high, S::mul(scale, low))
                    } else if KIND == AFFINE {
                        let total = self.corrections.add(cell).cast::<f32>().read();
                        let minimum = S::load(self.weights.minima[b].as_ptr());
                        let scaled = S::mul(scale, dot::<S, 8, KIND>(&w, x, 0));
                        S::fma(minimum, S::splat(total), scaled)
                    } else {
                        let init = self.corrections.add(cell).read();
                        S::mul(scale, dot::<S, 8, KIND>(&w, x, init))
                    };
                    *sum = S::fma(product, S::splat(self.scales.add(cell).read()), *sum);
                }
            }
            for (r, sum) in sums.into_iter().enumerate() {
                S::store(self.sums.add(r).cast(), sum);
            }
        }
    }
}

/// `init` plus the products of `N` groups of four columns.
#[inline(always)]
unsafe fn dot<S: Simd, const N: usize, const KIND: u8>(
    w: &[S::W],
    x: *const i32,
    init: i32,
) -> S::F {
    // SAFETY: x has N words; they are aligned to four bytes.
    unsafe {
        let mut sum = S::splat_i32(init);
        for (g, &w) in w[..N].iter().enumerate() {
            let x = x.add(g).read();
            sum = if KIND == BYTES {
                S::dot4::<true>(sum, w, x)
            } else {
                S::dot4::<false>(sum, w, x)
            };
        }
        S::to_f32(sum)
    }
}

/// Adds the products of a chunk of columns to `R` rows of sums, one column after the other.
#[inline(always)]
unsafe fn multiply_floats<S: Simd, const R: usize>(
    weights: &[[f32; LANES]],
    row: impl Fn(usize) -> *const f32,
    to: *mut [f32; LANES],
) {
    // SAFETY: each row has as many columns as there are weights; `to` has R rows.
    unsafe {
        let rows: [*const f32; R] = std::array::from_fn(row);
        let mut sums: [S::F; R] = std::array::from_fn(|r| S::load(to.add(r).cast()));
        for (k, w) in weights.iter().enumerate() {
            let w = S::load(w.as_ptr());
            for (sum, row) in sums.iter_mut().zip(&rows) {
                *sum = S::fma(S::splat(row.add(k).read()), w, *sum);
            }
        }
        for (r, sum) in sums.into_iter().enumerate() {
            S::store(to.add(r).cast(), sum);
        }
    }
}
