//! The measured curve of tokens by size of tree.
//!
//! The best K' nodes of a tree are a tree, so a verified tree of K nodes tells what each smaller budget
//! would have accepted: the accepted nodes that are among the best K'.

use super::tree::{Tree, likelier};
use serde::{Deserialize, Serialize};

/// Budgets 1, 2, 4 … 2048.
const BUDGETS: usize = 12;
/// Accepted nodes by budget before anything was measured: Sequoia's optimal trees on the published
/// acceptance (`sequoia::PUBLISHED_ACCEPTANCE`), less the pass's own token.
const PRIOR: [f64; BUDGETS] =
    [0.773, 1.371, 2.191, 2.974, 3.600, 4.249, 4.933, 5.615, 6.293, 6.970, 7.649, 8.323];
/// Trees that the prior counts as.
const PRIOR_WEIGHT: f64 = 4.0;
/// How much better than the prior larger budgets are taken to be, at most, where smaller ones were.
const RATIO_MAX: f64 = 3.0;
/// What a tree counts after the next one: the last thousand or so decide.
const DECAY: f64 = 0.999;

/// Expected tokens of one sequence's pass by the number of nodes in its tree.
///
/// Kept as what each doubling of the budget adds, measured on the trees that are larger than its half, by
/// the part of it that they have: small trees then do not speak about large budgets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GainCurve {
    /// Decayed number of trees with more nodes than the budget before; those with fewer than this one
    /// count in part.
    trees: [f64; BUDGETS],
    /// Decayed sum of accepted nodes that this budget has and the one before has not.
    added: [f64; BUDGETS],
}

impl Default for GainCurve {
    fn default() -> GainCurve {
        GainCurve::new()
    }
}

impl GainCurve {
    /// Nothing measured.
    pub fn new() -> GainCurve {
        let nothing = [0.0; BUDGETS];
        GainCurve { trees: nothing, added: nothing }
    }

    /// Adds a verified tree and the nodes that were accepted.
    pub fn record(&mut self, tree: &Tree, accepted: &[usize]) {
        let nodes = tree.nodes();
        let key = |node: usize| (nodes[node].log_p, node);
        let accepted = || accepted.iter().copied().filter(|node| (1..nodes.len()).contains(node));
        let rank = |node: usize| {
            (1..nodes.len()).filter(|&other| likelier(key(other), key(node)).is_lt()).count()
        };
        let ranks: Vec<usize> = accepted().map(rank).collect();
        for at in 0..BUDGETS {
            let before = if at == 0 { 0 } else { 1 << (at - 1) };
            if tree.size() <= before {
                break;
            }
            let added = ranks.iter().filter(|rank| (before..1 << at).contains(*rank)).count();
            // Gains are about linear in the logarithm of nodes.
            let part = (tree.size() as f64 / before as f64).log2().min(1.0);
            let decay = DECAY.powf(part);
            self.trees[at] = self.trees[at] * decay + part;
            self.added[at] = self.added[at] * decay + added as f64;
        }
    }

    /// Accepted nodes at each budget. What a doubling adds is expected to be what the prior says, times
    /// how much better the budgets before it have been than the prior.
    fn accepted(&self) -> [f64; BUDGETS] {
        let mut accepted = [0.0; BUDGETS];
        let (mut so_far, mut prior_so_far, mut ratio) = (0.0, 0.0, 1.0);
        for at in 0..BUDGETS {
            let expected = (PRIOR[at] - prior_so_far) * ratio;
            let (trees, added) = (self.trees[at].max(0.0), self.added[at].max(0.0));
            so_far += (PRIOR_WEIGHT * expected + added) / (PRIOR_WEIGHT + trees);
            prior_so_far = PRIOR[at];
            ratio = (so_far / prior_so_far).min(RATIO_MAX);
            accepted[at] = so_far;
        }
        accepted
    }

    /// Expected tokens of a pass with a tree of `nodes` nodes beside its root; 1 without any.
    /// Interpolated in the logarithm of `nodes`.
    pub fn tokens(&self, nodes: usize) -> f64 {
        if nodes == 0 {
            return 1.0;
        }
        let accepted = self.accepted();
        let doublings = (nodes as f64).log2();
        // Beyond the largest budget the last doubling goes on.
        let at = (doublings as usize).min(BUDGETS - 2);
        let (low, high) = (accepted[at], accepted[at + 1]);
        1.0 + low + (high - low) * (doublings - at as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::super::sequoia::{PUBLISHED_ACCEPTANCE, greedy_tree};
    use super::super::tree::tests::any_tree;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_prior_is_sequoias_curve() {
        for (at, prior) in PRIOR.iter().enumerate() {
            let tree = greedy_tree(&PUBLISHED_ACCEPTANCE, (1 << at) + 1, 100);
            let tokens = tree.expected_tokens(&PUBLISHED_ACCEPTANCE);
            assert!((tokens - 1.0 - prior).abs() < 1e-3, "{at}: {tokens}");
            assert!((GainCurve::new().tokens(1 << at) - 1.0 - prior).abs() < 1e-9);
        }
    }

    /// A chain of `nodes` nodes, each half as likely as the one before.
    fn chain(nodes: u32) -> Tree {
        let root = Tree::new(0).nodes()[0];
        let node = |at: u32| super::super::Node {
            parent: at.saturating_sub(1),
            log_p: -0.7 * at as f32,
            ..root
        };
        Tree::from_nodes((0..=nodes).map(node).collect())
    }

    #[test]
    fn smaller_budgets_are_measured_too() {
        let mut curve = GainCurve::new();
        for accepted in [vec![1, 2, 3, 4, 5], vec![1]].iter().cycle().take(4000) {
            curve.record(&chain(16), accepted);
        }
        for (nodes, tokens) in [(0, 1.0), (1, 2.0), (2, 2.5), (4, 3.5), (8, 4.0), (16, 4.0)] {
            assert!(
                (curve.tokens(nodes) - tokens).abs() < 0.05,
                "{nodes}: {}",
                curve.tokens(nodes)
            );
        }
    }

    /// Trees between two budgets tell of the larger one.
    #[test]
    fn parts_of_doublings_count() {
        let mut curve = GainCurve::new();
        let all: Vec<usize> = (1..=11).collect();
        for accepted in [&all[..], &all[..8]].iter().cycle().take(2000) {
            curve.record(&chain(11), accepted);
        }
        assert!((curve.tokens(8) - 9.0).abs() < 0.1, "{}", curve.tokens(8));
        assert!((curve.tokens(11) - 10.5).abs() < 0.2, "{}", curve.tokens(11));
    }

    #[test]
    fn a_change_is_followed() {
        let mut curve = GainCurve::new();
        for (at, rounds) in [(&[1, 2, 3, 4][..], 500), (&[], 10_000)] {
            for _ in 0..rounds {
                curve.record(&chain(4), at);
            }
        }
        assert!(curve.tokens(4) < 1.05 && curve.tokens(2048) < 1.2, "{}", curve.tokens(2048));
    }

    proptest! {
        /// The curve does not fall, and is finite, whatever was recorded.
        #[test]
        fn the_curve_does_not_fall(trees in prop::collection::vec(any_tree(), 0..20), node: usize) {
            let mut curve = GainCurve::new();
            for tree in &trees {
                curve.record(tree, &tree.path(node % tree.len()));
                curve.record(tree, &[node, 0]);
            }
            let tokens: Vec<f64> = (0..5000).step_by(7).map(|nodes| curve.tokens(nodes)).collect();
            prop_assert!(tokens.iter().all(|tokens| tokens.is_finite()));
            prop_assert!(tokens.windows(2).all(|pair| pair[0] <= pair[1] + 1e-9));
            let text = serde_json::to_string(&curve).unwrap();
            prop_assert_eq!(serde_json::from_str::<GainCurve>(&text).unwrap(), curve);
        }
    }
}
