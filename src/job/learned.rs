//! How long answers turn out to be, learned from those that are there.

/// Output lengths seen so far. Answers are taken to end at any token with the same probability: then
/// those still being generated count too, and short answers, which are done first, do not mislead.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Learned {
    /// Answers that ended by themselves: at an end token or a stop string.
    pub stopped: u64,
    /// Answers that ended, in whatever way.
    pub ended: u64,
    /// Tokens generated, for answers that go on too.
    pub tokens: u64,
}

/// Tokens of an answer where nothing is known: the mean of a million conversations with 25 models
/// (LMSYS-Chat-1M, arXiv 2309.11998, table 1).
const USUAL: f64 = 214.5;

/// So many answers must have ended before they say anything.
pub const LEARNED_MIN: u64 = 8;

impl Learned {
    /// Tokens of an answer that may have up to `max`, on average: of a geometric distribution cut off
    /// there, whose parameter has been most likely so far. `max` itself where ends are `fixed`.
    pub fn output(&self, max: usize, fixed: bool) -> usize {
        let most = max.max(1) as f64;
        let cut_off = |ends: f64| (1.0 - (1.0 - ends).powf(most)) / ends;
        let tokens = if fixed {
            most
        } else if self.ended < LEARNED_MIN || self.tokens == 0 {
            cut_off(1.0 / USUAL)
        } else if self.stopped == 0 {
            most
        } else {
            cut_off((self.stopped as f64 / self.tokens as f64).min(1.0))
        };
        (tokens.round() as usize).clamp(1, max.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_known_at_first() {
        assert_eq!([1, 100, 8000].map(|max| Learned::default().output(max, false)), [1, 80, 214]);
        assert_eq!(Learned::default().output(100, true), 100);
        assert_eq!(Learned::default().output(0, false), 1);
        let few = Learned { stopped: 7, ended: 7, tokens: 70 };
        assert_eq!(few.output(100, false), 80);
    }

    #[test]
    fn answers_are_as_long_as_they_were() {
        let short = Learned { stopped: 50, ended: 50, tokens: 500 };
        assert_eq!([10_000, 5, 1].map(|max| short.output(max, false)), [10, 4, 1]);
        let cut = Learned { stopped: 0, ended: 50, tokens: 5000 };
        assert_eq!(cut.output(100, false), 100);
        // Of answers cut off at 100 tokens, a part ended before.
        let mixed = Learned { stopped: 10, ended: 30, tokens: 2500 };
        assert!((75..90).contains(&mixed.output(100, false)));
    }
}
