//! Attention of a few rows of one sequence and one key/value head: their query heads share each key and
//! value. A row has the bits that it has alone.

use super::math::exp;
use super::simd::{LANES, Simd, Task, sum};
use super::span::Span;
use crate::kernel::{AttentionRow, CacheLayout, PAGE_LEN};
use crate::quant::{GROUP, scale_bytes};
use std::ops::Range;

/// Vectors of a head's output held in registers at a time.
const STRIP: usize = 4;

/// Bytes that memory gives at a time.
const CACHE_LINE: usize = 64;

/// Rows of one sequence that share keys and values. More would share little more, and make units too
/// large to spread over many threads.
const ROWS: usize = 4;

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

    /// f32 of working memory per thread: a tile of keys or values, then per row and query head the
    /// query, the output, the tile's weights, the sum of weights and the maximum.
    pub(super) fn scratch(&self) -> usize {
        let head = self.stride() + self.padded() + 3 * LANES;
        PAGE_LEN * self.stride() + ROWS * self.group() * head
    }

    /// Units of work: blocks of rows times key/value heads.
    pub(super) fn units(&self, blocks: &[Range<usize>]) -> usize {
        blocks.len() * self.layout.kv_heads
    }
}

/// Rows that are computed together: neighbours of one sequence, which share its pages.
pub(super) fn blocks(map: &[AttentionRow]) -> Vec<Range<usize>> {
    let mut blocks: Vec<Range<usize>> = Vec::new();
    for (row, own) in map.iter().enumerate() {
        match blocks.last_mut() {
            Some(last) if last.len() < ROWS && map[last.start].page_start == own.page_start => {
                last.end = row + 1;
            }
            _ => blocks.push(row..row + 1),
        }
    }
    blocks
}

/// Units `units` of an attention call.
pub(super) struct Rows<'a> {
    pub(super) call: &'a Attention,
    pub(super) blocks: &'a [Range<usize>],
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
        let heads = ROWS * group;
        let outputs = queries.wrapping_add(heads * stride);
        let weights = outputs.wrapping_add(heads * padded).cast::<[f32; LANES]>();
        let states = weights.wrapping_add(heads);
        let work =
            Work { call: self.call, padded, stride, tile, queries, outputs, weights, states };
        for unit in self.units {
            // SAFETY: scratch has the size of `Attention::scratch` and belongs to this thread.
            unsafe { work.block::<S>(self.blocks[unit / kv_heads].clone(), unit % kv_heads) };
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
    /// Per row and query head: lane-wise sums of weights, then a vector whose first lane is the maximum.
    states: *mut [f32; LANES],
}

impl Work<'_> {
    #[inline(always)]
    unsafe fn block<S: Simd>(&self, rows: Range<usize>, kv_head: usize) {
        // SAFETY: spans check bounds; this unit alone writes its heads of `out`.
        unsafe {
            let map = self.call.map.slice::<AttentionRow>(rows.start, rows.len());
            let first = map.iter().map(|row| self.start(row) / PAGE_LEN).min().unwrap_or(0);
            let end = map.iter().map(|row| (row.length as usize).div_ceil(PAGE_LEN)).max();
            self.prefetch::<S>(&map[0], first, kv_head, false);
            self.prefetch::<S>(&map[0], first, kv_head, true);
            for (index, row) in rows.clone().enumerate() {
                self.begin(index, row, kv_head);
            }
            self.tile.write_bytes(0, PAGE_LEN * self.stride);
            for tile in first..end.unwrap_or(0) {
                let base = tile * PAGE_LEN;
                let mut all: [Range<usize>; ROWS] = [const { 0..0 }; ROWS];
                let (mut start, mut end, mut prefix) = (PAGE_LEN, 0, usize::MAX);
                for (to, row) in all.iter_mut().zip(map) {
                    let seen = self.seen(row, base);
                    if !seen.is_empty() {
                        (start, end) = (start.min(seen.start), end.max(seen.end));
                        prefix = prefix.min(row.prefix as usize);
                    }
                    *to = seen;
                }
                if end == 0 {
                    continue;
                }
                if base + end <= prefix {
                    self.take_in::<S>(&map[0], base, (0, &all[..rows.len()]), start..end, kv_head);
                    continue;
                }
                // Paths of their own.
                for (index, (seen, row)) in all.iter().zip(map).enumerate() {
                    if !seen.is_empty() {
                        let own = (index, std::slice::from_ref(seen));
                        self.take_in::<S>(row, base, own, seen.clone(), kv_head);
                    }
                }
            }
            for (index, row) in rows.enumerate() {
                self.finish::<S>(index, row, kv_head);
            }
        }
    }

    /// Asks for the keys and values of a tile that lies in the row's pages as a whole: they are strewn over
    /// memory, and come too late for who waits for each.
    #[inline(always)]
    unsafe fn prefetch<S: Simd>(
        &self,
        row: &AttentionRow,
        tile: usize,
        kv_head: usize,
        values: bool,
    ) {
        if (tile + 1) * PAGE_LEN > row.prefix as usize {
            return;
        }
        let (layout, cache) = (self.call.layout, self.call.cache);
        // SAFETY: the span of pages checks the tile; a prefetch may name any address.
        unsafe {
            let page = self.call.pages.slice::<u32>(row.page_start as usize + tile, 1)[0] as usize;
            for slot in page * PAGE_LEN..(page + 1) * PAGE_LEN {
                let (from, bytes) = match values {
                    true => (layout.value_at(slot), layout.value_bytes()),
                    false => (layout.key_at(slot), layout.key_bytes()),
                };
                let head = cache.at::<u8>(0, 0).wrapping_add(from + kv_head * bytes);
                for at in (0..bytes).step_by(CACHE_LINE) {
                    S::prefetch(head.wrapping_add(at));
                }
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

    /// Sets out with the queries of row `row`, which is the block's `index`-th.
    #[inline(always)]
    unsafe fn begin(&self, index: usize, row: usize, kv_head: usize) {
        let call = self.call;
        let (group, dim) = (call.group(), call.layout.head_dim);
        let first_head = row * call.heads + kv_head * group;
        // SAFETY: spans check bounds, and scratch has ROWS * group heads.
        unsafe {
            let queries = call.q.slice::<f32>(first_head * dim, group * dim);
            for (head, query) in queries.chunks_exact(dim).enumerate() {
                let at = index * group + head;
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
    unsafe fn take_in<S: Simd>(
        &self,
        row: &AttentionRow,
        base: usize,
        (first, seen): (usize, &[Range<usize>]),
        union: Range<usize>,
        kv_head: usize,
    ) {
        let group = self.call.group();
        let some = || seen.iter().enumerate().filter(|(_, seen)| !seen.is_empty());
        // SAFETY: within this thread's scratch.
        unsafe {
            let slots = self.slots(row, base, union.clone());
            self.widen::<S>(&slots, union.clone(), kv_head, false);
            self.turn(base, union.clone());
            self.prefetch::<S>(row, base / PAGE_LEN + 1, kv_head, false);
            for (index, seen) in some() {
                for head in 0..group {
                    self.score::<S>((first + index) * group + head, seen);
                }
            }
            for (index, seen) in some() {
                for head in 0..group {
                    self.weigh::<S>((first + index) * group + head, seen);
                }
            }
            self.widen::<S>(&slots, union, kv_head, true);
            self.prefetch::<S>(row, base / PAGE_LEN + 1, kv_head, true);
            for (index, seen) in some() {
                for head in 0..group {
                    self.blend::<S>((first + index) * group + head, seen.clone());
                }
            }
        }
    }

    /// Writes the output of a row.
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, index: usize, row: usize, kv_head: usize) {
        let call = self.call;
        let (group, dim) = (call.group(), call.layout.head_dim);
        let first_head = row * call.heads + kv_head * group;
        // SAFETY: as in `begin`; this unit alone writes these heads.
        unsafe {
            let out = call.out.slice_mut::<f32>(first_head * dim, group * dim);
            for (head, out) in out.chunks_exact_mut(dim).enumerate() {
                let at = index * group + head;
                let total = sum::<S>(S::load(self.states.add(2 * at).cast()));
                let values = std::slice::from_raw_parts(self.outputs.add(at * self.padded), dim);
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
            for (part, dots) in dots.chunks_mut(S::SUMS).enumerate() {
                let tile = self.tile.add(part * S::SUMS * self.stride);
                match dots.len() {
                    16 => self.products::<S, 16>(query, tile, dots),
                    _ => self.products::<S, 4>(query, tile, dots),
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

    /// Products of a query with `N` keys, each in lanes.
    #[inline(always)]
    unsafe fn products<S: Simd, const N: usize>(
        &self,
        query: *const f32,
        keys: *const f32,
        dots: &mut [S::F],
    ) {
        // SAFETY: within this thread's scratch.
        unsafe {
            let mut sums = [S::splat(0.0); N];
            for d in (0..self.stride).step_by(LANES) {
                let q = S::load(query.add(d));
                for (at, sum) in sums.iter_mut().enumerate() {
                    *sum = S::fma(q, S::load(keys.add(at * self.stride + d)), *sum);
                }
            }
            dots.copy_from_slice(&sums);
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
