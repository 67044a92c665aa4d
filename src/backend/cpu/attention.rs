//! Attention of one row and one key/value head: its query heads share each key and value.

use super::math::exp;
use super::simd::{LANES, Simd, Task, sum};
use super::span::Span;
use crate::kernel::{AttentionRow, CacheLayout, PAGE_LEN};
use crate::quant::{GROUP, scale_bytes};
use std::ops::Range;

/// Vectors of a head's output held in registers at a time.
const STRIP: usize = 4;

/// Operands of an attention call; see [`crate::kernel::Call::Attention`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Attention {
    pub(super) q: Span,
    pub(super) cache: Span,
    pub(super) map: Span,
    pub(super) pages: Span,
    pub(super) path: Span,
    pub(super) out: Span,
    /// Coefficients and table of a key bias.
    pub(super) bias: Option<(Span, Span)>,
    pub(super) heads: usize,
    pub(super) layout: CacheLayout,
    pub(super) scale: f32,
    pub(super) window: usize,
}

impl Attention {
    /// Query heads per key/value head.
    fn group(&self) -> usize {
        self.heads / self.layout.kv_heads
    }

    /// Elements of a head, padded to whole vectors, or to whole groups of codes.
    fn padded(&self) -> usize {
        let unit = if self.layout.format.is_compressed() { GROUP } else { LANES };
        self.layout.head_dim.next_multiple_of(unit)
    }

    /// Elements from one query or key to the next: with a key bias, a query goes on with its
    /// coefficients and a key with the turns of its position, so that one product takes in both.
    fn stride(&self) -> usize {
        self.padded() * if self.bias.is_some() { 2 } else { 1 }
    }

    /// f32 of working memory per thread: a tile of keys or values, then per query head the query,
    /// the output, the tile's weights, the sum of weights and the maximum.
    pub(super) fn scratch(&self) -> usize {
        PAGE_LEN * self.stride() + self.group() * (self.stride() + self.padded() + 3 * LANES)
    }

    /// Units of work: rows times key/value heads.
    pub(super) fn units(&self, rows: usize) -> usize {
        rows * self.layout.kv_heads
    }
}

/// Units `units` of an attention call.
pub(super) struct Rows<'a> {
    pub(super) call: &'a Attention,
    pub(super) units: Range<usize>,
    pub(super) scratch: *mut f32,
}

impl Task for Rows<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let kv_heads = self.call.layout.kv_heads;
        let (group, padded, stride) = (self.call.group(), self.call.padded(), self.call.stride());
        let tile = self.scratch;
        let queries = tile.wrapping_add(PAGE_LEN * stride);
        let outputs = queries.wrapping_add(group * stride);
        let weights = outputs.wrapping_add(group * padded).cast::<[f32; LANES]>();
        let states = weights.wrapping_add(group);
        let work =
            Work { call: self.call, padded, stride, tile, queries, outputs, weights, states };
        for unit in self.units {
            // SAFETY: scratch has the size of `Attention::scratch` and belongs to this thread.
            unsafe { work.row::<S>(unit / kv_heads, unit % kv_heads) };
        }
    }
}

/// The call and the parts of a thread's scratch.
struct Work<'a> {
    call: &'a Attention,
    padded: usize,
    stride: usize,
    tile: *mut f32,
    queries: *mut f32,
    outputs: *mut f32,
    weights: *mut [f32; LANES],
    /// Per query head: lane-wise sums of weights, then a vector whose first lane is the maximum.
    states: *mut [f32; LANES],
}

impl Work<'_> {
    #[inline(always)]
    unsafe fn row<S: Simd>(&self, row: usize, kv_head: usize) {
        let call = self.call;
        let (group, dim) = (call.group(), call.layout.head_dim);
        let first_head = row * call.heads + kv_head * group;
        // SAFETY: spans check bounds; this unit alone writes its heads of `out`.
        unsafe {
            let map = call.map.slice::<AttentionRow>(row, 1)[0];
            let queries = call.q.slice::<f32>(first_head * dim, group * dim);
            for (head, query) in queries.chunks_exact(dim).enumerate() {
                let to = std::slice::from_raw_parts_mut(
                    self.queries.add(head * self.stride),
                    self.stride,
                );
                to.fill(0.0);
                to[..dim].copy_from_slice(query);
                if let Some((terms, _)) = call.bias {
                    let terms = terms.slice::<f32>((first_head + head) * dim, dim);
                    to[self.padded..][..dim].copy_from_slice(terms);
                }
                self.outputs.add(head * self.padded).write_bytes(0, self.padded);
                self.states.add(2 * head).write([0.0; LANES]);
                self.states.add(2 * head + 1).write([f32::NEG_INFINITY; LANES]);
            }
            self.tile.write_bytes(0, PAGE_LEN * self.stride);
            let length = map.length as usize;
            let start = if call.window == 0 { 0 } else { length.saturating_sub(call.window) };
            for tile in start / PAGE_LEN..length.div_ceil(PAGE_LEN) {
                let base = tile * PAGE_LEN;
                let seen = start.max(base) - base..length.min(base + PAGE_LEN) - base;
                let slots = self.slots(&map, base, seen.clone());
                self.widen::<S>(&slots, seen.clone(), kv_head, false);
                self.turn(base, seen.clone());
                for head in 0..group {
                    self.score::<S>(head, &seen);
                }
                for head in 0..group {
                    self.weigh::<S>(head, &seen);
                }
                self.widen::<S>(&slots, seen.clone(), kv_head, true);
                for head in 0..group {
                    self.blend::<S>(head, seen.clone());
                }
            }
            let out = call.out.slice_mut::<f32>(first_head * dim, group * dim);
            for (head, out) in out.chunks_exact_mut(dim).enumerate() {
                let total = sum::<S>(S::load(self.states.add(2 * head).cast()));
                let values = std::slice::from_raw_parts(self.outputs.add(head * self.padded), dim);
                for (out, value) in out.iter_mut().zip(values) {
                    *out = if total > 0.0 { value / total } else { *value };
                }
            }
        }
    }

    /// Cache slots of the seen positions of the tile at `base`.
    #[inline(always)]
    unsafe fn slots(
        &self,
        map: &AttentionRow,
        base: usize,
        seen: Range<usize>,
    ) -> [usize; PAGE_LEN] {
        let mut slots = [0; PAGE_LEN];
        let prefix = map.prefix as usize;
        // SAFETY: nobody writes pages or path while calls run; bounds are checked.
        unsafe {
            for at in seen {
                let position = base + at;
                slots[at] = if position < prefix {
                    let page = map.page_start as usize + position / PAGE_LEN;
                    self.call.pages.slice::<u32>(page, 1)[0] as usize * PAGE_LEN + at
                } else {
                    let node = map.path_start as usize + position - prefix;
                    self.call.path.slice::<u32>(node, 1)[0] as usize
                };
            }
        }
        slots
    }

    /// Converts the keys or the values of the seen slots to f32.
    #[inline(always)]
    unsafe fn widen<S: Simd>(
        &self,
        slots: &[usize; PAGE_LEN],
        seen: Range<usize>,
        kv_head: usize,
        values: bool,
    ) {
        let layout = self.call.layout;
        let (bits, bytes) = match values {
            true => (layout.format.value_bits(), layout.value_bytes()),
            false => (layout.format.key_bits(), layout.key_bytes()),
        };
        for at in seen {
            let slot = slots[at];
            let from = if values { layout.value_at(slot) } else { layout.key_at(slot) };
            let from = from + kv_head * bytes;
            // SAFETY: the span checks the slot; the tile has `stride` floats per position.
            unsafe {
                let to = self.tile.add(at * self.stride);
                if bits == 16 {
                    widen_f16::<S>(self.call.cache.slice(from / 2, bytes / 2), to);
                } else {
                    let head = self.call.cache.slice::<u8>(from, bytes);
                    let (scales, codes) = head.split_at(scale_bytes(layout.head_dim, bits));
                    match bits {
                        8 => widen_codes::<S, 8>(scales, codes, to),
                        _ => widen_codes::<S, 4>(scales, codes, to),
                    }
                }
            }
        }
    }

    /// Puts the turns of the seen positions beside their keys.
    #[inline(always)]
    unsafe fn turn(&self, base: usize, seen: Range<usize>) {
        let Some((_, turns)) = self.call.bias else { return };
        let dim = self.call.layout.head_dim;
        for at in seen {
            // SAFETY: the span checks the position; the tile has `stride` floats for each.
            unsafe {
                let from = turns.slice::<f32>((base + at) * dim, dim);
                let to = self.tile.add(at * self.stride + self.padded);
                to.copy_from_nonoverlapping(from.as_ptr(), dim);
            }
        }
    }

    /// Scores of one query head against the tile's keys; unseen positions score minus infinity.
    #[inline(always)]
    unsafe fn score<S: Simd>(&self, head: usize, seen: &Range<usize>) {
        // SAFETY: within this thread's scratch.
        unsafe {
            let query = self.queries.add(head * self.stride);
            let mut dots = [S::splat(0.0); PAGE_LEN];
            for d in (0..self.stride).step_by(LANES) {
                let q = S::load(query.add(d));
                for (at, dot) in dots.iter_mut().enumerate() {
                    *dot = S::fma(q, S::load(self.tile.add(at * self.stride + d)), *dot);
                }
            }
            let scaled = S::mul(S::sum_rows(&dots), S::splat(self.call.scale));
            let scores = self.weights.add(head);
            S::store(scores.cast(), scaled);
            if *seen != (0..PAGE_LEN) {
                (&mut *scores)[..seen.start].fill(f32::NEG_INFINITY);
                (&mut *scores)[seen.end..].fill(f32::NEG_INFINITY);
            }
        }
    }

    /// Turns one head's scores into weights, and rescales what it has so far. A loop of its own over
    /// the heads: these are long chains of few instructions, which overlap.
    #[inline(always)]
    unsafe fn weigh<S: Simd>(&self, head: usize, seen: &Range<usize>) {
        // SAFETY: within this thread's scratch.
        unsafe {
            let (total, maximum) = (self.states.add(2 * head), self.states.add(2 * head + 1));
            let weights = self.weights.add(head);
            let scores = S::load(weights.cast());
            let before = (*maximum)[0];
            let here = S::max_lane(scores);
            let most = if here > before { here } else { before };
            S::store(weights.cast(), exp::<S>(S::sub(scores, S::splat(most))));
            if *seen != (0..PAGE_LEN) {
                (&mut *weights)[..seen.start].fill(0.0);
                (&mut *weights)[seen.end..].fill(0.0);
            }
            let mut sums = S::load(total.cast());
            if most > before {
                let shrink = exp::<S>(S::splat(before - most));
                sums = S::mul(sums, shrink);
                let out = self.outputs.add(head * self.padded);
                for d in (0..self.padded).step_by(LANES) {
                    S::store(out.add(d), S::mul(S::load(out.add(d)), shrink));
                }
                (*maximum)[0] = most;
            }
            S::store(total.cast(), S::add(sums, S::load(weights.cast())));
        }
    }

    /// Adds the tile's values to one head's output by its weights, one position after the other.
    #[inline(always)]
    unsafe fn blend<S: Simd>(&self, head: usize, seen: Range<usize>) {
        // SAFETY: within this thread's scratch.
        unsafe {
            let weights = &*self.weights.add(head);
            let out = self.outputs.add(head * self.padded);
            let mut d = 0;
            while d + STRIP * LANES <= self.padded {
                self.strip::<S, STRIP>(weights, seen.clone(), out, d);
                d += STRIP * LANES;
            }
            while d < self.padded {
                self.strip::<S, 1>(weights, seen.clone(), out, d);
                d += LANES;
            }
        }
    }

    #[inline(always)]
    unsafe fn strip<S: Simd, const N: usize>(
        &self,
        weights: &[f32; LANES],
        seen: Range<usize>,
        out: *mut f32,
        d: usize,
    ) {
        // SAFETY: within this thread's scratch.
        unsafe {
            let mut sums = [S::splat(0.0); N];
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = S::load(out.add(d + i * LANES));
            }
            for at in seen {
                let weight = S::splat(weights[at]);
                let value = self.tile.add(at * self.stride + d);
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = S::fma(weight, S::load(value.add(i * LANES)), *sum);
                }
            }
            for (i, sum) in sums.into_iter().enumerate() {
                S::store(out.add(d + i * LANES), sum);
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

/// Widens groups of codes of `BITS`.
#[inline(always)]
unsafe fn widen_codes<S: Simd, const BITS: usize>(scales: &[u8], codes: &[u8], to: *mut f32) {
    // Scales of a block.
    let each = if BITS == 8 { 1 } else { 2 };
    let some = scales.chunks(2 * LANES).zip(codes.chunks(LANES / each * GROUP * BITS / 8));
    for (first, (scales, codes)) in some.enumerate() {
        let (mut halves, mut floats) = ([0u16; LANES], [0f32; LANES]);
        for (half, scale) in halves.iter_mut().zip(scales.as_chunks::<2>().0) {
            *half = u16::from_le_bytes(*scale);
        }
        let groups = codes.chunks_exact(GROUP * BITS / 8);
        // SAFETY: the caller gives room for all codes.
        unsafe {
            S::store(floats.as_mut_ptr(), S::load_f16(halves.as_ptr()));
            for (i, (codes, scales)) in groups.zip(floats.chunks_exact(each)).enumerate() {
                let to = to.add((first * LANES / each + i) * GROUP);
                let [low, high] = match BITS {
                    8 => [S::load_i8(codes.as_ptr()), S::load_i8(codes.as_ptr().add(LANES))],
                    _ => {
                        let [low, high] = S::load_halves(codes.as_ptr());
                        [S::sub(low, S::splat(8.0)), S::sub(high, S::splat(8.0))]
                    }
                };
                S::store(to, S::mul(low, S::splat(scales[0])));
                S::store(to.add(LANES), S::mul(high, S::splat(scales[each - 1])));
            }
        }
    }
}
