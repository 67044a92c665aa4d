//! How long passes take, and so how large trees should be: predicted seconds by rows, corrected by what
//! was measured.

use forebay_planner::seconds_by_rows;

/// What a new measurement counts beside all before it.
const NEWS: f64 = 0.15;

/// Passes with trees before they are judged: a single one may have bad luck.
const TRIAL: u32 = 4;

/// Passes of a kind after which another look is taken at the other kind, at first.
const PATIENCE: u32 = 8;

/// Classes of rows, two to an octave.
const CLASSES: usize = 40;

fn class(rows: usize) -> usize {
    let rows = rows as u64;
    (rows * rows).checked_ilog2().map_or(0, |class| class as usize).min(CLASSES - 1)
}

/// Seconds of passes.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    /// (rows, predicted seconds) of a decode pass, ascending; a plan's.
    curve: Vec<(usize, f64)>,
    /// Measured over predicted, by classes of rows: a size that was not tried is taken to be as fast as
    /// predicted, and so gets tried.
    ratios: [f64; CLASSES],
    /// Tokens per second of late passes with trees, and how many passes those were.
    rate: Option<f64>,
    judged: u32,
    /// Passes without trees that are still to come before trees are tried again, and how many there were.
    pause: u32,
    paused: u32,
}

impl Pace {
    pub(super) fn new(curve: Vec<(usize, f64)>) -> Pace {
        Pace { curve, ratios: [1.0; CLASSES], judged: 0, rate: None, pause: 0, paused: PATIENCE }
    }

    /// Seconds of a pass over `rows` rows.
    pub(super) fn seconds(&self, rows: usize) -> f64 {
        self.ratios[class(rows)] * self.predicted(rows)
    }

    fn predicted(&self, rows: usize) -> f64 {
        seconds_by_rows(&self.curve, rows as f64)
    }

    /// Takes in a pass over `rows` rows that brought `tokens` to `sequences` sequences.
    pub(super) fn measured(&mut self, rows: usize, seconds: f64) {
        let predicted = self.predicted(rows);
        if predicted > 0.0 && seconds > 0.0 {
            // A pass that was disturbed does not decide alone.
            let known = &mut self.ratios[class(rows)];
            let ratio = (seconds / predicted).clamp(*known / 3.0, *known * 3.0);
            *known += NEWS * (ratio - *known);
        }
    }

    /// Whether trees are grown in the coming pass.
    pub(super) fn speculates(&mut self) -> bool {
        if self.pause > 0 {
            self.pause -= 1;
            return false;
        }
        true
    }

    /// Judges a pass with trees by what the same sequences would do without: a rate below that for some
    /// passes makes a pause, each twice as long as the one before.
    pub(super) fn judge(&mut self, sequences: usize, tokens: usize, seconds: f64) {
        if seconds <= 0.0 {
            return;
        }
        let now = tokens as f64 / seconds;
        let rate = self.rate.map_or(now, |rate| rate + NEWS * (now - rate));
        self.rate = Some(rate);
        self.judged += 1;
        let plain = sequences as f64 / self.seconds(sequences).max(f64::MIN_POSITIVE);
        if self.judged < TRIAL {
            return;
        }
        if rate < plain {
            (self.rate, self.judged) = (None, 0);
            self.pause = self.paused;
            self.paused = self.paused.saturating_mul(2).min(1024);
        } else {
            self.paused = PATIENCE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_follow_what_is_measured() {
        let mut pace = Pace::new(vec![(1, 1.0), (100, 1.0), (200, 2.0)]);
        assert_eq!([1, 50, 150, 400].map(|rows| pace.seconds(rows)), [1.0, 1.0, 1.5, 4.0]);
        (0..60).for_each(|_| pace.measured(150, 3.0));
        assert!((pace.seconds(160) - 3.2).abs() < 0.01);
        assert_eq!(pace.seconds(50), 1.0, "another size is not known to be slower");
        assert_eq!(Pace::new(Vec::new()).seconds(7), 0.0);
    }

    #[test]
    fn trees_that_do_not_pay_pause() {
        let mut pace = Pace::new(vec![(1, 1.0), (2, 2.0)]);
        assert!(pace.speculates());
        pace.judge(1, 3, 2.0);
        assert!(pace.speculates(), "1.5 tokens a second are more than 1");
        let mut trials = 0;
        while pace.speculates() {
            pace.judge(1, 1, 2.0);
            trials += 1;
        }
        assert!((TRIAL..20).contains(&(trials + 1)), "{trials}");
        let pauses = 1 + (0..100).take_while(|_| !pace.speculates()).count();
        assert_eq!(pauses, PATIENCE as usize);
    }
}
