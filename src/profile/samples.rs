//! Repeated timings on a machine that others use too.

use std::time::Duration;

/// How long measuring may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// About ten seconds.
    Quick,
    /// About a minute.
    Full,
}

impl Effort {
    /// Rounds over everything, more than this never; what is measured is spread over time, since
    /// other programs come and go.
    pub(super) fn rounds_max(self) -> usize {
        match self {
            Effort::Quick => 2,
            Effort::Full => 7,
        }
    }

    /// No further round starts after this.
    pub(super) fn rounds_end(self) -> Duration {
        match self {
            Effort::Quick => Duration::from_secs(4),
            Effort::Full => Duration::from_secs(35),
        }
    }

    /// Time of one figure in one round.
    pub(super) fn slice(self) -> f64 {
        match self {
            Effort::Quick => 0.012,
            Effort::Full => 0.030,
        }
    }

    /// What is expected to take longer is not measured.
    pub(super) fn sample_max(self) -> f64 {
        match self {
            Effort::Quick => 0.12,
            Effort::Full => 0.6,
        }
    }

    /// Rows of x at which linear layers are measured.
    pub(super) fn rows(self) -> &'static [usize] {
        match self {
            Effort::Quick => &[1, 4, 8, 16, 64, 256],
            Effort::Full => &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512],
        }
    }

    /// Bytes of weights that linear layers rotate over: more than the caches of most processors.
    pub(super) fn weight_bytes(self) -> usize {
        match self {
            Effort::Quick => 48 << 20,
            Effort::Full => 96 << 20,
        }
    }

    /// Bytes of the scratch file, at most.
    pub(super) fn file_bytes(self) -> u64 {
        match self {
            Effort::Quick => 128 << 20,
            Effort::Full => 512 << 20,
        }
    }

    /// Bytes of one timed read of the disk.
    pub(super) fn read_bytes(self) -> u64 {
        match self {
            Effort::Quick => 32 << 20,
            Effort::Full => 128 << 20,
        }
    }
}

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

    /// The lower quartile: other programs only ever add time. 0 where nothing was measured.
    pub(super) fn seconds(&self) -> f64 {
        self.quantile(4)
    }

    /// The median. 0 where nothing was measured.
    pub(super) fn median(&self) -> f64 {
        self.quantile(2)
    }

    fn quantile(&self, part: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        sorted.get(sorted.len().saturating_sub(1) / part).copied().unwrap_or(0.0)
    }
}

/// Part of the shorter of two jobs that ran beside the longer, when `alone` are their times alone and
/// `both` their time together; 0 to 1.
pub(super) fn overlap(alone: [f64; 2], both: f64) -> f64 {
    let shorter = alone[0].min(alone[1]);
    if shorter <= 0.0 {
        return 0.0;
    }
    ((alone[0] + alone[1] - both) / shorter).clamp(0.0, 1.0)
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
    fn quantiles_leave_out_what_others_added() {
        let mut samples = Samples::default();
        assert_eq!((samples.is_empty(), samples.seconds()), (true, 0.0));
        [9.0, 1.0, 2.0, 3.0, 50.0].iter().for_each(|&v| samples.push(v));
        assert_eq!((samples.seconds(), samples.median()), (2.0, 3.0));
    }

    #[test]
    fn overlap_is_the_hidden_part_of_the_shorter() {
        assert_eq!(overlap([2.0, 1.0], 3.0), 0.0);
        assert_eq!(overlap([2.0, 1.0], 2.0), 1.0);
        assert_eq!(overlap([1.0, 2.0], 2.5), 0.5);
        assert_eq!(overlap([1.0, 2.0], 9.0), 0.0);
        assert_eq!(overlap([0.0, 2.0], 2.0), 0.0);
    }
}
