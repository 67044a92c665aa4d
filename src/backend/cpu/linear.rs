//! Linear layers: a unit of work is one tile of 16 outputs times a block of rows.

use super::activations::{Rounded, group_len};
use super::expand::{
    Affine4, Affine5, CHUNK, Centred4, Centred5, Centred8, Expanded, Format, Halves6, Planes,
    expand_scales, prefetch_scales,
};
use super::floats::{FLOAT_CHUNK, FloatGroup, Floats};
use super::products::Group;
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
    /// take, in this tile or the next; never more than a tile ahead.
    #[inline(always)]
    fn ahead(&self, tile: *const u8, first: usize) -> (*const u8, usize) {
        let packing = &self.product.packing;
        let (blocks, at) = (packing.blocks(), first + AHEAD);
        match at < blocks {
            true => (tile, at),
            false => {
                let at = at - blocks.next_multiple_of(CHUNK);
                (tile.wrapping_add(packing.tile_bytes()), if at < blocks { at } else { 0 })
            }
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
                // Asked for once.
                ahead: (start == self.start).then_some(ahead),
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
        let (weights, cols) = (self.weights(), packing.cols);
        let few = self.end - self.start <= FEW;
        for first in (0..cols).step_by(FLOAT_CHUNK) {
            // SAFETY: row pointers are checked for the chunk's columns; sums has the group's rows.
            unsafe {
                let chunk = Floats::new(packing, weights, first, FLOAT_CHUNK.min(cols - first));
                if !few {
                    chunk.expand::<S>(&mut bench.floats);
                }
                let mut start = self.start;
                while start < self.end {
                    let len = group_len(start, self.rows);
                    let rows = x.at::<f32>(start * cols + first, (len - 1) * cols + chunk.count);
                    let group = FloatGroup {
                        chunk: &chunk,
                        expanded: (!few).then_some(&bench.floats),
                        rows,
                        stride: cols,
                        sums: bench.sums[start - self.start..][..len].as_mut_ptr(),
                    };
                    match len {
                        8 if S::SUMS < 8 => {
                            group.multiply::<S, 4>(0);
                            group.multiply::<S, 4>(4);
                        }
                        8 => group.multiply::<S, 8>(0),
                        4 => group.multiply::<S, 4>(0),
                        2 => group.multiply::<S, 2>(0),
                        _ => group.multiply::<S, 1>(0),
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
