//! Which tokens a sequence has seen, for penalties.

use std::collections::HashMap;

/// Counts of tokens in the prompt and in the output of one sequence.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Token -> occurrences in the output (0: only in the prompt).
    counts: HashMap<u32, u32>,
}

impl History {
    /// A history that starts with a prompt.
    pub fn new(prompt: &[u32]) -> History {
        History { counts: prompt.iter().map(|&token| (token, 0)).collect() }
    }

    /// Counts a generated token.
    pub fn push(&mut self, token: u32) {
        *self.counts.entry(token).or_default() += 1;
    }

    /// Tokens seen, each with its occurrences in the output.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.counts.iter().map(|(&token, &count)| (token, count))
    }
}
