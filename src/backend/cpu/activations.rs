//! Rows of x rounded to 8 bits per 32 columns, in the order the micro-kernel reads them.
//!
//! Rows go in groups of 8, 4, 2 or 1 ([`group_len`]). A group's element is `[block][row in group]`:
//! 32 i8 quants, one f32 scale, and per kind of weight one correction (see [`Correction`]).

use super::buffer::Span;
use super::math::ROUNDER;
use super::simd::{Simd, Task};
use std::ops::Range;

/// Columns that share a scale.
pub(super) const BLOCK: usize = 32;

/// Rows of the largest group.
pub(super) const GROUP: usize = 8;

/// Below this a block counts as zero: the inverse of its scale would overflow.
const TINY: f32 = 1e-30;

/// Rows of the group that starts at `start`, of `rows` in all.
#[inline(always)]
pub(super) fn group_len(start: usize, rows: usize) -> usize {
    match rows - start {
        8.. => 8,
        4.. => 4,
        2.. => 2,
        _ => 1,
    }
}

/// What weights need to know of a block of x beside its quants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Correction {
    /// f32 sum of the quants: weights with a minimum.
    Sum,
    /// i32 `-8 * sum`: weights centred on 8.
    Centre8,
    /// i32 `-16 * sum`.
    Centre16,
    /// i32 `-BYTE_BIAS * sum`: 8-bit weights.
    CentreByte,
    /// Two i32 `-32 * sum` of 16 columns each.
    Halves32,
}

impl Correction {
    const ALL: [Correction; 5] = [
        Correction::Sum,
        Correction::Centre8,
        Correction::Centre16,
        Correction::CentreByte,
        Correction::Halves32,
    ];

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of corrections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Corrections(u8);

impl Corrections {
    pub(super) fn insert(&mut self, correction: Correction) {
        self.0 |= correction.bit();
    }

    fn has(self, correction: Correction) -> bool {
        self.0 & correction.bit() != 0
    }
}

/// Rounded rows in a workspace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rounded {
    space: Span,
    rows: usize,
    blocks: usize,
}

impl Rounded {
    /// Bytes of workspace for `rows` of `cols`.
    pub(super) fn bytes(rows: usize, cols: usize) -> usize {
        // Quants, scale, and one word per correction (two for halves).
        rows * cols.div_ceil(BLOCK) * (BLOCK + 4 + (Correction::ALL.len() + 1) * 4)
    }

    pub(super) fn new(space: Span, rows: usize, cols: usize) -> Rounded {
        let space = space.holds::<u8>(Rounded::bytes(rows, cols), "workspace");
        Rounded { space, rows, blocks: cols / BLOCK }
    }

    fn cells(&self) -> usize {
        self.rows * self.blocks
    }

    /// Index of the first cell of block `block` in the group at row `start` of `len` rows.
    #[inline(always)]
    fn cell(&self, start: usize, len: usize, block: usize) -> usize {
        start * self.blocks + block * len
    }

    /// Quants of the group's rows for `count` blocks from `block` on.
    #[inline(always)]
    pub(super) fn quants(&self, start: usize, len: usize, block: usize, count: usize) -> *mut i8 {
        self.space.at(self.cell(start, len, block) * BLOCK, count * len * BLOCK)
    }

    /// Their scales.
    #[inline(always)]
    pub(super) fn scales(&self, start: usize, len: usize, block: usize, count: usize) -> *mut f32 {
        let at = self.cells() * (BLOCK / 4) + self.cell(start, len, block);
        self.space.at(at, count * len)
    }

    /// Their corrections.
    #[inline(always)]
    pub(super) fn corrections(
        &self,
        start: usize,
        len: usize,
        block: usize,
        count: usize,
        which: Correction,
    ) -> *mut i32 {
        let each = if which == Correction::Halves32 { 2 } else { 1 };
        let plane = self.cells() * (BLOCK / 4 + 1 + which as usize);
        self.space.at(plane + self.cell(start, len, block) * each, count * len * each)
    }
}

/// Rounds the groups `units` of `x` (`[rows][cols]` f32).
pub(super) struct Round {
    pub(super) x: Span,
    pub(super) into: Rounded,
    pub(super) needs: Corrections,
    pub(super) units: Range<usize>,
}

impl Round {
    /// Units of work in `rows` rows.
    pub(super) fn units(rows: usize) -> usize {
        rows.div_ceil(GROUP)
    }
}

impl Task for Round {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Rounded { rows, blocks, .. } = self.into;
        let cols = blocks * BLOCK;
        let mut start = self.units.start * GROUP;
        let end = (self.units.end * GROUP).min(rows);
        while start < end {
            let len = group_len(start, rows);
            for r in 0..len {
                // SAFETY: x is not written in this phase.
                let row = unsafe { self.x.slice::<f32>((start + r) * cols, cols) };
                for (block, x) in row.as_chunks::<BLOCK>().0.iter().enumerate() {
                    let (quants, scale, sums) = round_block(x);
                    // SAFETY: the accessors check bounds, `r < len`, and each cell has one writer.
                    unsafe {
                        let to = self.into.quants(start, len, block, 1).add(r * BLOCK);
                        to.cast::<[i8; BLOCK]>().write_unaligned(quants);
                        self.into.scales(start, len, block, 1).add(r).write(scale);
                        for which in Correction::ALL {
                            if self.needs.has(which) {
                                let to = self.into.corrections(start, len, block, 1, which);
                                correct::<S>(which, sums, r, to);
                            }
                        }
                    }
                }
            }
            start += len;
        }
    }
}

/// # Safety
/// `to` has a cell for row `r`.
#[inline(always)]
unsafe fn correct<S: Simd>(which: Correction, sums: [i32; 2], r: usize, to: *mut i32) {
    let sum = sums[0] + sums[1];
    // SAFETY: by contract.
    unsafe {
        match which {
            Correction::Sum => to.cast::<f32>().add(r).write(sum as f32),
            Correction::Centre8 => to.add(r).write(-8 * sum),
            Correction::Centre16 => to.add(r).write(-16 * sum),
            Correction::CentreByte => to.add(r).write(-i32::from(S::BYTE_BIAS) * sum),
            Correction::Halves32 => {
                to.add(2 * r).write(-32 * sums[0]);
                to.add(2 * r + 1).write(-32 * sums[1]);
            }
        }
    }
}

/// Quants, scale and the sums of both halves of a block.
#[inline(always)]
fn round_block(x: &[f32; BLOCK]) -> ([i8; BLOCK], f32, [i32; 2]) {
    // Ordering magnitudes as integers lets a NaN win, so that it reaches the result.
    let largest = x.iter().fold(0, |m: u32, v| m.max(v.to_bits() & 0x7FFF_FFFF));
    let largest = f32::from_bits(largest);
    if largest < TINY {
        return ([0; BLOCK], 0.0, [0; 2]);
    }
    let inverse = 127.0 / largest;
    let quants: [i8; BLOCK] = std::array::from_fn(|i| {
        (x[i] * inverse + ROUNDER).to_bits().wrapping_sub(ROUNDER.to_bits()) as i8
    });
    let half = |from: usize| quants[from..from + 16].iter().map(|&q| i32::from(q)).sum();
    (quants, largest / 127.0, [half(0), half(16)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_round_to_nearest_even() {
        let mut x = [0.0f32; BLOCK];
        (x[0], x[1], x[2], x[3], x[17]) = (127.0, -126.6, 2.5, -3.5, 4.4);
        let (quants, scale, sums) = round_block(&x);
        assert_eq!((quants[0], quants[1], quants[2], quants[3], quants[17]), (127, -127, 2, -4, 4));
        assert_eq!((scale, sums), (1.0, [-2, 4]));
        assert_eq!(round_block(&[0.0; BLOCK]).1, 0.0);
        x[9] = f32::NAN;
        assert!(round_block(&x).1.is_nan());
    }
}
