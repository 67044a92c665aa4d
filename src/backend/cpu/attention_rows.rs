//! A thread's part of an attention call: rows and heads of a unit go through their tiles one after the
//! other, with a running maximum and sum of weights (streaming softmax).

use super::attention::{Attention, ROWS, Unit};
use super::attention_places::{Side, Slots};
use super::simd::{LANES, Simd, Task, sum};
use crate::kernel::{AttentionRow, PAGE_LEN};
use std::ops::Range;

/// Units of an attention call.
pub(super) struct Rows<'a> {
    pub(super) call: &'a Attention,
    pub(super) units: &'a [Unit],
    pub(super) scratch: *mut f32,
}

impl Task for Rows<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (group, padded, stride) = (self.call.group(), self.call.padded(), self.call.stride());
        let tile = self.scratch;
        let queries = tile.wrapping_add(self.call.tile());
        let heads = self.call.spots_max() * group;
        let outputs = queries.wrapping_add(heads * stride);
        let weights = outputs.wrapping_add(heads * padded).cast::<[f32; LANES]>();
        let states = weights.wrapping_add(heads);
        let (call, [keys, values]) =
            (self.call, [false, true].map(|values| Side::of(self.call.layout, values)));
        let work =
            Work { call, padded, stride, keys, values, tile, queries, outputs, weights, states };
        for unit in self.units {
            // SAFETY: scratch has the size of `Attention::scratch` and belongs to this thread.
            unsafe {
                match self.call.reads_halves() {
                    true => work.unit::<S, true>(unit),
                    false => work.unit::<S, false>(unit),
                }
            }
        }
    }
}

/// The call and the parts of a thread's scratch. A spot is a row and a key/value head of the unit; each
/// has the query heads of its group.
pub(super) struct Work<'a> {
    pub(super) call: &'a Attention,
    pub(super) padded: usize,
    pub(super) stride: usize,
    pub(super) keys: Side,
    pub(super) values: Side,
    /// Widened keys or values of a head: `[PAGE_LEN][stride]`.
    pub(super) tile: *mut f32,
    pub(super) queries: *mut f32,
    pub(super) outputs: *mut f32,
    pub(super) weights: *mut [f32; LANES],
    /// Per spot and query head: lane-wise sums of weights, then a vector whose first lane is the maximum.
    pub(super) states: *mut [f32; LANES],
}

/// Rows and key/value heads of a unit.
fn spots(unit: &Unit) -> impl Iterator<Item = (usize, usize)> {
    let Unit { rows, heads } = unit.clone();
    rows.flat_map(move |row| heads.clone().map(move |head| (row, head)))
}

impl Work<'_> {
    #[inline(always)]
    unsafe fn unit<S: Simd, const HALVES: bool>(&self, unit: &Unit) {
        let Unit { rows, heads } = unit;
        // SAFETY: spans check bounds; this unit alone writes its heads of `out`.
        unsafe {
            let map = self.call.map.slice::<AttentionRow>(rows.start, rows.len());
            let first = map.iter().map(|row| self.start(row) / PAGE_LEN).min().unwrap_or(0);
            let end = map.iter().map(|row| (row.length as usize).div_ceil(PAGE_LEN)).max();
            for (row, head) in spots(unit) {
                self.begin(unit, row, head);
            }
            if !HALVES {
                self.tile.write_bytes(0, PAGE_LEN * self.stride);
            }
            for tile in first..end.unwrap_or(0) {
                let base = tile * PAGE_LEN;
                let mut all: [Range<usize>; ROWS] = [const { 0..0 }; ROWS];
                let (mut start, mut end) = (PAGE_LEN, 0);
                // The row with the most pages, and whether pages are all that any row sees here.
                let (mut widest, mut paged) = (&map[0], true);
                for (to, row) in all.iter_mut().zip(map) {
                    let seen = self.seen(row, base);
                    if !seen.is_empty() {
                        (start, end) = (start.min(seen.start), end.max(seen.end));
                        paged &= base + seen.end <= row.prefix as usize;
                        widest = if row.prefix > widest.prefix { row } else { widest };
                    }
                    *to = seen;
                }
                if end > 0 && paged {
                    self.take_in::<S, HALVES>(
                        widest,
                        base,
                        (0, &all[..rows.len()]),
                        start..end,
                        heads,
                    );
                } else if end > 0 {
                    // Paths of their own.
                    for (index, (seen, row)) in all.iter().zip(map).enumerate() {
                        if !seen.is_empty() {
                            let own = (index, std::slice::from_ref(seen));
                            self.take_in::<S, HALVES>(row, base, own, seen.clone(), heads);
                        }
                    }
                }
            }
            for (row, head) in spots(unit) {
                self.finish::<S>(unit, row, head);
            }
        }
    }

    /// First position that a row sees.
    #[inline(always)]
    fn start(&self, row: &AttentionRow) -> usize {
        match self.call.window {
            0 => 0,
            window => (row.length as usize).saturating_sub(window),
        }
    }

    /// Positions of the tile at `base` that a row sees.
    #[inline(always)]
    fn seen(&self, row: &AttentionRow, base: usize) -> Range<usize> {
        let end = (row.length as usize).clamp(base, base + PAGE_LEN) - base;
        self.start(row).clamp(base, base + end) - base..end
    }

    /// First query head of a row and key/value head, and its place in scratch.
    #[inline(always)]
    fn place(&self, unit: &Unit, row: usize, head: usize) -> (usize, usize) {
        let group = self.call.group();
        let spot = (row - unit.rows.start) * unit.heads.len() + head - unit.heads.start;
        (row * self.call.heads + head * group, spot * group)
    }

    /// Sets out with the queries of a row and key/value head.
    #[inline(always)]
    unsafe fn begin(&self, unit: &Unit, row: usize, head: usize) {
        let (call, dim) = (self.call, self.call.layout.head_dim);
        let (first_head, place) = self.place(unit, row, head);
        // SAFETY: spans check bounds, and scratch has all spots.
        unsafe {
            let queries = call.q.slice::<f32>(first_head * dim, call.group() * dim);
            for (head, query) in queries.chunks_exact(dim).enumerate() {
                let at = place + head;
                let to =
                    std::slice::from_raw_parts_mut(self.queries.add(at * self.stride), self.stride);
                to.fill(0.0);
                to[..dim].copy_from_slice(query);
                if let Some((terms, _)) = call.bias {
                    let terms = terms.slice::<f32>((first_head + head) * dim, dim);
                    to[self.padded..][..dim].copy_from_slice(terms);
                }
                self.outputs.add(at * self.padded).write_bytes(0, self.padded);
                self.states.add(2 * at).write([0.0; LANES]);
                self.states.add(2 * at + 1).write([f32::NEG_INFINITY; LANES]);
            }
        }
    }

    /// Takes the positions `union` of the tile at `base` into the rows from the `first`-th on, of which
    /// each sees its own part; all find it as `row` does.
    #[inline(always)]
    unsafe fn take_in<S: Simd, const HALVES: bool>(
        &self,
        row: &AttentionRow,
        base: usize,
        (first, seen): (usize, &[Range<usize>]),
        union: Range<usize>,
        heads: &Range<usize>,
    ) {
        let places = self.call.group() * heads.len();
        // SAFETY: within this thread's scratch.
        unsafe {
            let slots = self.slots(row, base, union.clone());
            let tile = (row, base / PAGE_LEN, &slots);
            if !HALVES {
                self.turn(base, union.clone());
            }
            self.take_side::<S, HALVES, false>(tile, (first, seen), &union, heads);
            for (index, seen) in seen.iter().enumerate().filter(|(_, seen)| !seen.is_empty()) {
                for query in (first + index) * places..(first + index + 1) * places {
                    self.weigh::<S>(query, seen);
                }
            }
            self.take_side::<S, HALVES, true>(tile, (first, seen), &union, heads);
        }
    }

    /// Multiplies the keys of the unit's heads, one after the other, with all queries that see the same at once,
    /// or the `VALUES` with their weights.
    #[inline(always)]
    unsafe fn take_side<S: Simd, const HALVES: bool, const VALUES: bool>(
        &self,
        (row, tile, slots): (&AttentionRow, usize, &Slots),
        (first, seen): (usize, &[Range<usize>]),
        union: &Range<usize>,
        heads: &Range<usize>,
    ) {
        let (group, side) = (self.call.group(), if VALUES { &self.values } else { &self.keys });
        for head in heads.clone() {
            // SAFETY: passed on.
            let vectors = unsafe { self.vectors::<S, HALVES>(slots, union, head, side) };
            let mut row_at = first;
            for alike in seen.chunk_by(|a, b| a == b) {
                // Rows or heads of a unit are one, so the places of their queries lie together.
                let start = (row_at * heads.len() + head - heads.start) * group;
                row_at += alike.len();
                if alike[0].is_empty() {
                    continue;
                }
                // SAFETY: passed on.
                unsafe {
                    let ahead = self.ahead(row, tile, (head, heads), VALUES);
                    let places = start..start + alike.len() * group;
                    self.multiply::<S, HALVES, VALUES>(&vectors, ahead, places, &alike[0]);
                }
            }
        }
    }

    /// Writes the output of a row and key/value head.
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, unit: &Unit, row: usize, head: usize) {
        let (call, dim) = (self.call, self.call.layout.head_dim);
        let (first_head, place) = self.place(unit, row, head);
        // SAFETY: as in `begin`; this unit alone writes these heads.
        unsafe {
            let out = call.out.slice_mut::<f32>(first_head * dim, call.group() * dim);
            for (head, out) in out.chunks_exact_mut(dim).enumerate() {
                let at = place + head;
                let total = sum::<S>(S::load(self.states.add(2 * at).cast()));
                let values = std::slice::from_raw_parts(self.outputs.add(at * self.padded), dim);
                for (out, value) in out.iter_mut().zip(values) {
                    *out = if total > 0.0 { value / total } else { *value };
                }
            }
        }
    }
}
