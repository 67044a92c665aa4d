//! Float weights: 16 bits or 32, multiplied as f32.

use super::expand::halves;
use super::simd::{LANES, Simd};
use super::span::Span;
use crate::quant::{DType, Packing};

/// Columns of float weights expanded at a time.
pub(super) const FLOAT_CHUNK: usize = 128;

/// Some columns of a tile of float weights.
pub(super) struct Floats<'a> {
    dtype: DType,
    /// `[column][row]` f32, or `[column / 2][row][column % 2]` of 16 bits, in words.
    words: &'a [[u32; LANES]],
    pub(super) count: usize,
}

impl<'a> Floats<'a> {
    /// Columns `first..first + count`; `first` is even.
    ///
    /// # Safety
    /// Nobody writes the tile.
    #[inline(always)]
    pub(super) unsafe fn new(
        packing: &Packing,
        tile: Span,
        first: usize,
        count: usize,
    ) -> Floats<'a> {
        let each = if packing.dtype == DType::F32 { 1 } else { 2 };
        // SAFETY: by contract; the slice is checked against the tile.
        let words = unsafe { tile.slice(first / each, count.div_ceil(each)) };
        Floats { dtype: packing.dtype, words, count }
    }

    /// Columns `2 * pair` and the next one, which may be beyond the last.
    ///
    /// # Safety
    /// `S` must be available.
    #[inline(always)]
    pub(super) unsafe fn pair<S: Simd>(&self, pair: usize) -> [S::F; 2] {
        // SAFETY: all loads are of sixteen lanes of an array.
        unsafe {
            match self.dtype {
                DType::F32 => {
                    let odd = (2 * pair + 1).min(self.count - 1);
                    let column = self.words.as_ptr().cast::<f32>();
                    [S::load(column.add(2 * pair * LANES)), S::load(column.add(odd * LANES))]
                }
                DType::F16 => halves::<S>(&self.words[pair]).into(),
                _ => {
                    let words = &self.words[pair];
                    let (mut even, mut odd) = ([0.0f32; LANES], [0.0f32; LANES]);
                    for i in 0..LANES {
                        even[i] = f32::from_bits(words[i] << 16);
                        odd[i] = f32::from_bits(words[i] & 0xFFFF_0000);
                    }
                    [S::load(even.as_ptr()), S::load(odd.as_ptr())]
                }
            }
        }
    }

    /// Widens all columns.
    ///
    /// # Safety
    /// `S` must be available.
    #[inline(always)]
    pub(super) unsafe fn expand<S: Simd>(&self, to: &mut [[f32; LANES]]) {
        for (pair, to) in to[..self.count].chunks_mut(2).enumerate() {
            // SAFETY: each column has sixteen lanes.
            unsafe {
                let columns = self.pair::<S>(pair);
                for (to, column) in to.iter_mut().zip(columns) {
                    S::store(to.as_mut_ptr(), column);
                }
            }
        }
    }
}

/// A chunk of float weights and the same columns of a group of rows.
pub(super) struct FloatGroup<'a> {
    pub(super) chunk: &'a Floats<'a>,
    /// The chunk's columns as f32, where they have been widened.
    pub(super) expanded: Option<&'a [[f32; LANES]; FLOAT_CHUNK]>,
    pub(super) rows: *const f32,
    pub(super) stride: usize,
    pub(super) sums: *mut [f32; LANES],
}

impl FloatGroup<'_> {
    /// Adds products to `R` rows of sums from the `first`-th on, one column after the other.
    ///
    /// # Safety
    /// `S` must be available; the group has the columns of so many rows.
    #[inline(always)]
    pub(super) unsafe fn multiply<S: Simd, const R: usize>(&self, first: usize) {
        // SAFETY: the maker of the group gave as many columns of its rows as there are weights.
        unsafe {
            let to = self.sums.add(first);
            let mut sums = [S::splat(0.0); R];
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = S::load(to.add(r).cast());
            }
            let rows = self.rows.add(first * self.stride);
            match self.expanded {
                Some(columns) => {
                    for (k, column) in columns[..self.chunk.count].iter().enumerate() {
                        self.column::<S, R>(rows.add(k), S::load(column.as_ptr()), &mut sums);
                    }
                }
                None => {
                    for pair in 0..self.chunk.count / 2 {
                        let [even, odd] = self.chunk.pair::<S>(pair);
                        self.column::<S, R>(rows.add(2 * pair), even, &mut sums);
                        self.column::<S, R>(rows.add(2 * pair + 1), odd, &mut sums);
                    }
                    if !self.chunk.count.is_multiple_of(2) {
                        let [last, _] = self.chunk.pair::<S>(self.chunk.count / 2);
                        self.column::<S, R>(rows.add(self.chunk.count - 1), last, &mut sums);
                    }
                }
            }
            for (r, sum) in sums.into_iter().enumerate() {
                S::store(to.add(r).cast(), sum);
            }
        }
    }

    /// Adds the products of one column, whose x is at `x` and a stride further for each row.
    #[inline(always)]
    unsafe fn column<S: Simd, const R: usize>(&self, x: *const f32, w: S::F, sums: &mut [S::F; R]) {
        for (r, sum) in sums.iter_mut().enumerate() {
            // SAFETY: by the contract of `multiply`.
            *sum = unsafe { S::fma(S::splat(x.add(r * self.stride).read()), w, *sum) };
        }
    }
}
