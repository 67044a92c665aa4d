//! What attention does to a tile of keys or values: scores it, weighs the scores, blends its values.

use super::attention_places::{Ahead, Vectors};
use super::attention_rows::Work;
use super::math::exp;
use super::simd::{LANES, Simd};
use crate::kernel::PAGE_LEN;
use std::ops::Range;

/// Keys, or vectors of an output, that are in registers at a time where there is room.
const STRIP: usize = 4;

/// Keys of a tile that are summed up together.
const QUARTER: usize = PAGE_LEN / 4;

impl Work<'_> {
    /// Multiplies keys with query heads at `places`, or `VALUES` with their weights, a few heads at a time.
    #[inline(always)]
    pub(super) unsafe fn multiply<S: Simd, const HALVES: bool, const VALUES: bool>(
        &self,
        vectors: &Vectors<HALVES>,
        mut ahead: Ahead,
        mut places: Range<usize>,
        seen: &Range<usize>,
    ) {
        // SAFETY: passed on.
        unsafe {
            // As alike as they can be: each share takes all keys or values in again.
            let share = places.len().div_ceil(places.len().div_ceil(S::HEADS));
            while !places.is_empty() {
                let place = places.start;
                places.start += match share.min(places.len()) {
                    6.. => self.some::<S, 6, HALVES, VALUES>(vectors, &ahead, place, seen),
                    5 => self.some::<S, 5, HALVES, VALUES>(vectors, &ahead, place, seen),
                    4 => self.some::<S, 4, HALVES, VALUES>(vectors, &ahead, place, seen),
                    3 => self.some::<S, 3, HALVES, VALUES>(vectors, &ahead, place, seen),
                    2 => self.some::<S, 2, HALVES, VALUES>(vectors, &ahead, place, seen),
                    _ => self.some::<S, 1, HALVES, VALUES>(vectors, &ahead, place, seen),
                };
                ahead = Ahead::NOTHING;
            }
        }
    }

    /// [`Work::multiply`] for `Q` query heads from `place` on. Returns `Q`.
    #[inline(always)]
    unsafe fn some<S: Simd, const Q: usize, const HALVES: bool, const VALUES: bool>(
        &self,
        vectors: &Vectors<HALVES>,
        ahead: &Ahead,
        place: usize,
        seen: &Range<usize>,
    ) -> usize {
        // SAFETY: passed on.
        unsafe {
            match VALUES {
                true => self.blend::<S, Q, HALVES>(vectors, ahead, place, seen),
                false => self.score::<S, Q, HALVES>(vectors, ahead, place, seen),
            }
        }
        Q
    }

    /// Scores of `Q` query heads from `place` on against the keys; unseen positions score minus infinity.
    #[inline(always)]
    unsafe fn score<S: Simd, const Q: usize, const HALVES: bool>(
        &self,
        keys: &Vectors<HALVES>,
        ahead: &Ahead,
        place: usize,
        seen: &Range<usize>,
    ) {
        // SAFETY: within this thread's scratch, or checked vectors of the cache.
        unsafe {
            let mut dots = [[S::splat(0.0); QUARTER]; Q];
            if S::SUMS < 4 * STRIP {
                self.products::<S, Q, 1, HALVES>(keys, ahead, place, &mut dots);
            } else {
                self.products::<S, Q, STRIP, HALVES>(keys, ahead, place, &mut dots);
            }
            for (q, dots) in dots.iter().enumerate() {
                let scaled = S::mul(S::sum_parts(dots), S::splat(self.call.scale));
                let scores = self.weights.add(place + q);
                S::store(scores.cast(), scaled);
                if *seen != (0..PAGE_LEN) {
                    (&mut *scores)[..seen.start].fill(f32::NEG_INFINITY);
                    (&mut *scores)[seen.end..].fill(f32::NEG_INFINITY);
                }
            }
        }
    }

    /// Products of `Q` queries with the keys, `N` keys at a time, each in lanes: those of every fourth key
    /// are summed up in part as soon as they are there, which keeps them in registers.
    #[inline(always)]
    unsafe fn products<S: Simd, const Q: usize, const N: usize, const HALVES: bool>(
        &self,
        keys: &Vectors<HALVES>,
        ahead: &Ahead,
        place: usize,
        dots: &mut [[S::F; QUARTER]; Q],
    ) {
        // SAFETY: within this thread's scratch, or checked vectors of the cache.
        unsafe {
            for part in 0..QUARTER {
                let mut rows = [[S::splat(0.0); QUARTER]; Q];
                for key in 0..QUARTER {
                    ahead.ask::<S>(part * QUARTER + key);
                }
                for first in (0..QUARTER).step_by(N) {
                    let mut sums = [[S::splat(0.0); N]; Q];
                    for d in (0..self.stride).step_by(LANES) {
                        let mut some = [S::splat(0.0); N];
                        for (at, key) in some.iter_mut().enumerate() {
                            *key = keys.load::<S>(part + (first + at) * QUARTER, d);
                        }
                        for (q, sums) in sums.iter_mut().enumerate() {
                            let query = S::load(self.queries.add((place + q) * self.stride + d));
                            for (sum, key) in sums.iter_mut().zip(some) {
                                *sum = S::fma(query, key, *sum);
                            }
                        }
                    }
                    for (rows, sums) in rows.iter_mut().zip(sums) {
                        rows[first..first + N].copy_from_slice(&sums);
                    }
                }
                for (dots, rows) in dots.iter_mut().zip(rows) {
                    dots[part] = S::sum_in_part(rows);
                }
            }
        }
    }

    /// Turns one head's scores into weights, and rescales what it has so far. A loop of its own over
    /// the heads: these are long chains of few instructions, which overlap.
    #[inline(always)]
    pub(super) unsafe fn weigh<S: Simd>(&self, place: usize, seen: &Range<usize>) {
        // SAFETY: within this thread's scratch, or checked vectors of the cache.
        unsafe {
            let (total, maximum) = (self.states.add(2 * place), self.states.add(2 * place + 1));
            let weights = self.weights.add(place);
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
                let out = self.outputs.add(place * self.padded);
                for d in (0..self.padded).step_by(LANES) {
                    S::store(out.add(d), S::mul(S::load(out.add(d)), shrink));
                }
                (*maximum)[0] = most;
            }
            S::store(total.cast(), S::add(sums, S::load(weights.cast())));
        }
    }

    /// Adds the values to the outputs of `Q` query heads from `place` on by their weights, one position after
    /// the other.
    #[inline(always)]
    unsafe fn blend<S: Simd, const Q: usize, const HALVES: bool>(
        &self,
        values: &Vectors<HALVES>,
        ahead: &Ahead,
        place: usize,
        seen: &Range<usize>,
    ) {
        // SAFETY: within this thread's scratch, or checked vectors of the cache.
        unsafe {
            let (mut d, mut ahead) = (0, *ahead);
            while S::SUMS >= 4 * STRIP && d + STRIP * LANES <= self.padded {
                self.strip::<S, Q, STRIP, HALVES>(values, &ahead, place, seen.clone(), d);
                ahead = Ahead::NOTHING;
                d += STRIP * LANES;
            }
            while d < self.padded {
                self.strip::<S, Q, 1, HALVES>(values, &ahead, place, seen.clone(), d);
                ahead = Ahead::NOTHING;
                d += LANES;
            }
        }
    }

    #[inline(always)]
    unsafe fn strip<S: Simd, const Q: usize, const N: usize, const HALVES: bool>(
        &self,
        values: &Vectors<HALVES>,
        ahead: &Ahead,
        place: usize,
        seen: Range<usize>,
        d: usize,
    ) {
        // SAFETY: within this thread's scratch, or checked vectors of the cache.
        unsafe {
            let weights = self.weights.add(place).cast::<f32>();
            let out = self.outputs.add(place * self.padded + d);
            let mut sums = [[S::splat(0.0); N]; Q];
            for (q, sums) in sums.iter_mut().enumerate() {
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = S::load(out.add(q * self.padded + i * LANES));
                }
            }
            for at in seen {
                ahead.ask::<S>(at);
                let mut value = [S::splat(0.0); N];
                for (i, value) in value.iter_mut().enumerate() {
                    *value = values.load::<S>(at, d + i * LANES);
                }
                for (q, sums) in sums.iter_mut().enumerate() {
                    let weight = S::splat(weights.add(q * LANES + at).read());
                    for (sum, value) in sums.iter_mut().zip(value) {
                        *sum = S::fma(weight, value, *sum);
                    }
                }
            }
            for (q, sums) in sums.iter().enumerate() {
                for (i, sum) in sums.iter().enumerate() {
                    S::store(out.add(q * self.padded + i * LANES), *sum);
                }
            }
        }
    }
}
