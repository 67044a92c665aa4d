//! How long measuring may take, and when to hurry.

use super::meter::Clock;

/// Part of the time after which no further round starts that would not end by then.
const ROUNDS: f64 = 0.85;

/// How long measuring may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// About ten seconds.
    Quick,
    /// About a minute.
    Full,
}

impl Effort {
    fn seconds(self) -> f64 {
        match self {
            Effort::Quick => 10.0,
            Effort::Full => 60.0,
        }
    }

    /// Rounds over everything, more than this never; what is measured is spread over time, since
    /// other programs come and go.
    pub(super) fn rounds_max(self) -> usize {
        match self {
            Effort::Quick => 3,
            Effort::Full => 8,
        }
    }

    /// Time of one figure in one round.
    fn slice(self) -> f64 {
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

/// A stretch of the time that measuring may take. Whoever is late measures no more than it must.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) effort: Effort,
    clock: Clock,
    begin: f64,
    /// When this stretch is over, in seconds since `begin`.
    end: f64,
}

impl Pace {
    /// All of the time, from now on.
    pub(super) fn start(effort: Effort, clock: Clock) -> Pace {
        Pace { effort, clock, begin: clock.now(), end: effort.seconds() }
    }

    /// Seconds since the start.
    pub(super) fn spent(&self) -> f64 {
        self.clock.now() - self.begin
    }

    /// The stretch up to `part` of the time.
    pub(super) fn until(&self, part: f64) -> Pace {
        Pace { end: self.effort.seconds() * part, ..*self }
    }

    /// What is left of this stretch, shared among `waiting` turns: the first of them.
    pub(super) fn turn(&self, waiting: usize) -> Pace {
        let spent = self.spent();
        Pace { end: spent + (self.end - spent) / waiting.max(1) as f64, ..*self }
    }

    /// Whether this stretch is over.
    pub(super) fn is_late(&self) -> bool {
        self.spent() >= self.end
    }

    /// Whether a round of so many seconds can still be had.
    pub(super) fn fits(&self, seconds: f64) -> bool {
        self.spent() + seconds <= self.effort.seconds() * ROUNDS
    }

    /// Time of one figure in one round; none, and so a single sample, if late.
    pub(super) fn slice(&self) -> f64 {
        if self.is_late() { 0.0 } else { self.effort.slice() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::pass_time;
    use super::*;

    #[test]
    fn time_is_shared_and_what_is_left_over_is_passed_on() {
        let pace = Pace::start(Effort::Quick, Clock::Fake);
        let linear = pace.until(0.5);
        let first = linear.turn(5);
        pass_time(0.9);
        assert!(!first.is_late() && first.slice() > 0.0);
        pass_time(0.2);
        assert!(first.is_late() && first.slice() == 0.0 && !linear.is_late());
        // 3.9 s for the other four.
        let second = linear.turn(4);
        pass_time(0.974);
        assert!(!second.is_late());
        pass_time(0.002);
        assert!(second.is_late());
        assert!(pace.fits(6.0) && !pace.fits(7.0));
        pass_time(3.0);
        assert!(linear.is_late() && linear.turn(2).is_late() && !pace.is_late());
    }
}
