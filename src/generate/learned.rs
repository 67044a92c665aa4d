//! What is learned of draft trees while they are used: what they bring and what they cost.

use crate::speculate::{GainCurve, Sharpness, Tree};
use serde::{Deserialize, Serialize};

/// Passes and tokens that what was assumed at first counts for.
const PRIOR_PASSES: f64 = 8.0;
const PRIOR_ROWS: f64 = 0.6;
const PRIOR_OUTPUTS: f64 = 1.5;

/// What is learned of speculation in a job, to plan the next one with.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DraftLearned {
    /// Tokens that trees of a size bring, of greedy and of sampled sequences.
    gains: [GainCurve; 2],
    /// How far scores of greedy and of sampled sequences are to be trusted.
    pub sharpness: Option<[Sharpness; 2]>,
    /// Rounds of growth, and how many were to be expected of trees of those sizes.
    rounds: f64,
    /// Another name than in files that counted nodes of one tree.
    #[serde(rename = "rounds_of_all")]
    rounds_expected: f64,
    /// Rows that drafts computed, and nodes of the trees that came of them.
    rows: f64,
    nodes: f64,
    /// Rows of logits that the target computed, and tokens that it gave.
    outputs: f64,
    tokens: f64,
    /// The part of the target that drafted, where it does so itself.
    #[serde(default)]
    part: Option<f64>,
}

/// Rounds of growth of so many nodes over all trees, where nothing is known: chains at first, then wider.
/// About what qwen2.5-coder-0.5b needs for its larger sibling.
fn rounds_at_first(nodes: f64) -> f64 {
    (3.2 * (1.0 + nodes).log2() - 2.0).clamp(0.0, nodes)
}

/// So much for each of so many, starting at `first`; a file may say anything.
fn rate(sum: f64, count: f64, first: f64) -> f64 {
    let rate = (sum.max(0.0) + first * PRIOR_PASSES) / (count.max(0.0) + PRIOR_PASSES);
    rate.clamp(0.0, 64.0)
}

/// Parts of a target that are learned of together.
const PART: f64 = 0.1;

impl DraftLearned {
    /// For a target of which `part` drafts: forgets what was learned of another part, which is right more often
    /// or less.
    pub fn for_part(&mut self, part: f64) {
        if self.part.is_some_and(|known| (known - part).abs() > PART) {
            *self = DraftLearned::default();
        }
        self.part.get_or_insert(part);
    }

    /// Expected tokens of a sequence's pass by the number of nodes of its tree, where the part `greedy` of all
    /// sequences, 0 to 1, is sampled without noise.
    pub fn tokens(&self, greedy: f64) -> impl Fn(usize) -> f64 + use<> {
        let [sure, noisy] = [0, 1].map(|noisy: usize| self.gains[noisy].tokens());
        move |nodes| greedy * sure(nodes) + (1.0 - greedy) * noisy(nodes)
    }

    /// Takes in a verified tree of a sequence that is chosen with noise or without, and its accepted nodes.
    pub(super) fn followed(&mut self, noisy: bool, tree: &Tree, accepted: &[usize]) {
        self.gains[usize::from(noisy)].record(tree, accepted);
    }

    /// Rounds of growth of so many nodes over all trees.
    pub fn rounds_of(&self, nodes: usize) -> f64 {
        let factor = rate(self.rounds, self.rounds_expected, 1.0);
        (rounds_at_first(nodes as f64) * factor).clamp(1.0, nodes.max(1) as f64)
    }

    /// Rows that the draft computes for each node of a tree.
    pub fn rows_per_node(&self) -> f64 {
        rate(self.rows, self.nodes, PRIOR_ROWS)
    }

    /// Rows of logits that the target computes for each token.
    pub fn outputs_per_token(&self) -> f64 {
        rate(self.outputs, self.tokens, PRIOR_OUTPUTS)
    }

    /// Takes in a growth: `rounds` that computed `rows`, for trees of `nodes` nodes in all.
    pub(super) fn grew(&mut self, rounds: u64, rows: u64, nodes: usize) {
        self.rounds += rounds as f64;
        self.rounds_expected += rounds_at_first(nodes as f64);
        self.rows += rows as f64;
        self.nodes += nodes as f64;
    }

    /// Takes in a pass that computed `outputs` rows of logits for `tokens` tokens.
    pub(super) fn passed(&mut self, outputs: usize, tokens: usize) {
        self.outputs += outputs as f64;
        self.tokens += tokens as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speculate::Node;

    #[test]
    fn another_part_of_a_target_is_another_draft() {
        let mut learned = DraftLearned::default();
        learned.for_part(0.7);
        learned.passed(3, 1);
        let known = learned.clone();
        learned.for_part(0.75);
        assert_eq!(learned.outputs_per_token(), known.outputs_per_token());
        learned.for_part(0.85);
        let fresh = DraftLearned::default();
        assert_eq!(learned.outputs_per_token(), fresh.outputs_per_token());
        assert_eq!(learned.part, Some(0.85));
    }

    #[test]
    fn greedy_and_sampled_sequences_have_gains_of_their_own() {
        let mut learned = DraftLearned::default();
        let root = Tree::new(0).nodes()[0];
        let tree = Tree::from_nodes(vec![root, Node { log_p: -0.5, depth: 1, ..root }]);
        (0..500).for_each(|_| learned.followed(false, &tree, &[1]));
        (0..500).for_each(|_| learned.followed(true, &tree, &[]));
        let [sure, noisy, half] = [1.0, 0.0, 0.5].map(|greedy| learned.tokens(greedy)(1));
        assert!(sure > 1.95 && noisy < 1.05, "{sure} {noisy}");
        assert!((half - (sure + noisy) / 2.0).abs() < 1e-9);
    }

    #[test]
    fn rates_follow_what_is_seen() {
        let mut learned = DraftLearned::default();
        assert_eq!(learned.rounds_of(1), 1.0);
        assert!((9.0..13.0).contains(&learned.rounds_of(16)));
        for _ in 0..200 {
            learned.grew(5, 8, 16);
            learned.passed(20, 10);
        }
        assert!((4.8..6.0).contains(&learned.rounds_of(16)), "{}", learned.rounds_of(16));
        assert!((learned.rows_per_node() - 0.5).abs() < 0.01);
        let before = learned.rounds_expected;
        learned.grew(1, 1, 0);
        assert_eq!(learned.rounds_expected, before);
        assert!((learned.outputs_per_token() - 2.0).abs() < 0.01);
    }
}
