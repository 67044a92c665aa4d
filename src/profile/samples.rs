//! Repeated timings on a machine that others use too.

use super::fixed::FixedCosts;

/// Timings of one thing.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    pub(super) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The least that it takes. 0 where nothing was measured.
    pub(super) fn least(&self) -> f64 {
        least(self.0.iter().copied())
    }

    /// The median. 0 where nothing was measured.
    pub(super) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
    }
}

/// Values this close to each other, as a part, were both left alone.
const CLOSE: f64 = 0.1;

/// The least value, or the mean of the two least if they agree: other programs only ever add time, and
/// may do so in most samples, or in all of a round. 0 of none.
fn least(values: impl Iterator<Item = f64>) -> f64 {
    let (mut first, mut second) = (f64::INFINITY, f64::INFINITY);
    for value in values {
        (first, second) = (first.min(value), second.min(value.max(first)));
    }
    if !first.is_finite() {
        return 0.0;
    }
    if second <= first * (1.0 + CLOSE) { (first + second) / 2.0 } else { first }
}

/// A value so many times the least is another program's doing, not the machine's usual noise.
const BUSY: f64 = 1.5;

/// The mean, since a job takes the sum of its calls; without those that others disturbed. 0 of none.
fn usual(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let most = BUSY * least(values.clone());
    let (count, sum) = values
        .filter(|&value| value <= most)
        .fold((0, 0.0), |(count, sum), value| (count + 1, sum + value));
    if count > 0 { sum / f64::from(count) } else { 0.0 }
}

/// A timing as it was taken.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timing {
    /// All of it.
    pub(super) seconds: f64,
    /// How often the timed thing was done.
    pub(super) units: usize,
    /// Lists of calls that were run for it.
    pub(super) runs: usize,
    /// Calls of these lists.
    pub(super) calls: usize,
}

/// Least part of a timing that is not fixed cost: noise in a fixed cost must not make work free.
const LEAST_OWN: f64 = 0.25;

/// Timings of one thing, fixed costs included. These are known best at the end, and taken off then.
#[derive(Clone, Debug, Default)]
pub(super) struct Timings(Vec<Timing>);

impl Timings {
    pub(super) fn push(&mut self, timing: Timing) {
        self.0.push(timing);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The usual seconds of a unit beside `fixed` costs: a job takes what its calls usually take, not
    /// the least that they can. 0 where nothing was measured.
    pub(super) fn seconds(&self, fixed: &FixedCosts) -> f64 {
        usual(self.0.iter().map(|timing| {
            let own = (timing.seconds - fixed.of(timing)).max(LEAST_OWN * timing.seconds);
            own / timing.units as f64
        }))
    }

    /// The same with them.
    pub(super) fn gross(&self) -> f64 {
        self.seconds(&FixedCosts::default())
    }

    /// Mean seconds of a unit, fixed costs included.
    pub(super) fn mean(&self) -> f64 {
        let units: usize = self.0.iter().map(|timing| timing.units).sum();
        self.0.iter().map(|timing| timing.seconds).sum::<f64>() / units.max(1) as f64
    }
}

/// Timings of two jobs, always the same, alone and at once.
#[derive(Clone, Debug, Default)]
pub(super) struct Overlap {
    alone: [Samples; 2],
    both: Samples,
}

impl Overlap {
    pub(super) fn push(&mut self, alone: [f64; 2], both: f64) {
        self.alone.iter_mut().zip(alone).for_each(|(samples, seconds)| samples.push(seconds));
        self.both.push(both);
    }

    /// Part of the shorter that runs beside the longer, 0 to 1; 0 where nothing was measured.
    pub(super) fn part(&self) -> f64 {
        let [a, b] = self.alone.each_ref().map(Samples::least);
        let shorter = a.min(b);
        if shorter > 0.0 { ((a + b - self.both.least()) / shorter).clamp(0.0, 1.0) } else { 0.0 }
    }
}

/// A reproducible stream of numbers from 0 to 1.
pub(super) fn noise() -> impl FnMut() -> f32 {
    let mut state = 1u64;
    move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_added_is_left_out() {
        let mut samples = Samples::default();
        assert_eq!((samples.is_empty(), samples.least(), samples.median()), (true, 0.0, 0.0));
        samples.push(9.0);
        assert_eq!(samples.least(), 9.0);
        samples.push(1.04);
        assert_eq!(samples.least(), 1.04, "the other one was spoiled");
        [2.0, 1.0, 30.0].iter().for_each(|&v| samples.push(v));
        let found = (samples.least(), samples.median());
        assert_eq!(found, (1.02, 2.0));
    }

    #[test]
    fn fixed_costs_are_taken_off_by_the_counts_of_each_timing() {
        let mut timings = Timings::default();
        timings.push(Timing { seconds: 10.0 + 1.0 + 4.0 + 0.4, units: 2, runs: 2, calls: 4 });
        timings.push(Timing { seconds: 15.0 + 1.0 + 6.0 + 0.6, units: 3, runs: 3, calls: 6 });
        timings.push(Timing { seconds: 90.0, units: 3, runs: 3, calls: 6 });
        let fixed = FixedCosts { wait: 1.0, run: 2.0, call: 0.1, pass: 0.0 };
        assert!((timings.seconds(&fixed) - 5.0).abs() < 1e-12);
        assert!((timings.gross() - (15.4 / 2.0 + 22.6 / 3.0) / 2.0).abs() < 1e-12);
        assert!((timings.mean() - 128.0 / 8.0).abs() < 1e-12);
        let large = FixedCosts { wait: 1e3, ..fixed };
        assert!(timings.seconds(&large) > 0.0, "never free");
    }

    #[test]
    fn overlap_is_the_hidden_part_of_the_shorter() {
        let part = |timings: &[([f64; 2], f64)]| {
            let mut overlap = Overlap::default();
            timings.iter().for_each(|&(alone, both)| overlap.push(alone, both));
            overlap.part()
        };
        assert_eq!(part(&[([2.0, 1.0], 3.0)]), 0.0);
        assert_eq!(part(&[([2.0, 1.0], 2.0)]), 1.0);
        assert_eq!(part(&[([1.0, 2.0], 2.5)]), 0.5);
        assert_eq!(part(&[([1.0, 2.0], 9.0)]), 0.0);
        assert_eq!(part(&[([0.0, 2.0], 2.0)]), 0.0);
        assert_eq!(part(&[]), 0.0);
        // Each of the three was left alone once.
        assert_eq!(part(&[([1.0, 3.0], 4.0), ([3.0, 2.0], 4.0), ([3.0, 3.0], 2.5)]), 0.5);
    }
}
