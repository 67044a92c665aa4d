//! The measured curve of tokens by size of tree.
//!
//! The best K' nodes of a tree are a tree, so a verified tree of K nodes tells what each smaller budget
//! would have accepted: the accepted nodes that are among the best K'.

use super::sequoia::{PUBLISHED_ACCEPTANCE, greedy_tree};
use super::tree::{Tree, likelier};
use serde::{Deserialize, Serialize};

/// Budgets 1, 2, 4 … 2048.
const BUDGETS: usize = 12;
/// Trees that what is expected of a doubling counts as, and first choices that the published rate does.
const PRIOR_WEIGHT: f64 = 4.0;
const PRIOR_CHOICES: f64 = 16.0;
/// How much better than expected larger budgets are taken to be, at most, where smaller ones were.
const RATIO_MAX: f64 = 1.5;
/// What a tree counts after the next one: the last thousand or so decide.
const DECAY: f64 = 0.999;

/// Expected tokens of one sequence's pass by the number of nodes in its tree.
///
/// Kept as what each doubling of the budget adds, measured on the trees that are larger than its half, by
/// the part of it that they have: small trees then do not speak about large budgets. Of budgets that few
/// trees have had, Sequoia's optimal trees speak, for a draft whose first choice is right as often.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GainCurve {
    /// Decayed number of trees with more nodes than the budget before; those with fewer than this one
    /// count in part.
    trees: [f64; BUDGETS],
    /// Decayed sum of accepted nodes that this budget has and the one before has not.
    added: [f64; BUDGETS],
    /// Decayed number of nodes that were reached and had a child, and of those whose likeliest child came
    /// next. A path that ends at a leaf does not say how it would have gone on.
    #[serde(default)]
    choices: f64,
    /// See above.
    #[serde(default)]
    firsts: f64,
}

impl GainCurve {
    /// Nothing measured.
    pub fn new() -> GainCurve {
        GainCurve::default()
    }

    /// Adds a verified tree and its nodes that were accepted, from depth 1 on.
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
        self.choices *= DECAY;
        self.firsts *= DECAY;
        let came = accepted().map(Some).chain([None]);
        for (node, next) in [0].into_iter().chain(accepted()).zip(came) {
            let Some(first) = tree.likeliest_child(node) else { continue };
            self.choices += 1.0;
            self.firsts += f64::from(u8::from(next == Some(first)));
        }
    }

    /// Accepted nodes at each budget, of Sequoia's optimal trees for this draft.
    fn expected(&self) -> [f64; BUDGETS] {
        let published = PUBLISHED_ACCEPTANCE[0];
        // A file may say anything.
        let choices = self.choices.max(0.0);
        let firsts = self.firsts.clamp(0.0, choices);
        let p = acceptance((firsts + PRIOR_CHOICES * published) / (choices + PRIOR_CHOICES));
        let tree = greedy_tree(&p, (1 << (BUDGETS - 1)) + 1, usize::MAX);
        let by_size = tree.expected_by_size(&p);
        std::array::from_fn(|at| by_size[1 << at] - 1.0)
    }

    /// Accepted nodes at each budget. What a doubling adds is what trees of that size had, and beside that
    /// what is expected, times how much better the budgets before it have been than expected.
    fn accepted(&self) -> [f64; BUDGETS] {
        let expected = self.expected();
        let mut accepted = [0.0; BUDGETS];
        let (mut so_far, mut expected_so_far, mut ratio) = (0.0, 0.0, 1.0);
        for at in 0..BUDGETS {
            let likely = (expected[at] - expected_so_far) * ratio;
            let (trees, added) = (self.trees[at].max(0.0), self.added[at].max(0.0));
            so_far += (PRIOR_WEIGHT * likely + added) / (PRIOR_WEIGHT + trees);
            expected_so_far = expected[at];
            ratio = (so_far / expected_so_far).min(RATIO_MAX);
            accepted[at] = so_far;
        }
        accepted
    }

    /// Expected tokens of a pass by the number of nodes that its tree has beside its root; 1 without any.
    /// Interpolated in the logarithm of nodes.
    pub fn tokens(&self) -> impl Fn(usize) -> f64 + use<> {
        let accepted = self.accepted();
        move |nodes| {
            if nodes == 0 {
                return 1.0;
            }
            let doublings = (nodes as f64).log2();
            // Beyond the largest budget the last doubling goes on.
            let at = (doublings as usize).min(BUDGETS - 2);
            let (low, high) = (accepted[at], accepted[at + 1]);
            1.0 + low + (high - low) * (doublings - at as f64)
        }
    }
}

/// Acceptance by rank of a draft whose first choice is right at this rate: as published, the others in
/// proportion to how often the first is wrong, or for a worse draft, to how often it is right.
fn acceptance(first: f64) -> [f64; PUBLISHED_ACCEPTANCE.len()] {
    let published = PUBLISHED_ACCEPTANCE[0];
    let others = ((1.0 - first) / (1.0 - published)).min(first / published);
    let mut p = PUBLISHED_ACCEPTANCE.map(|p| p * others);
    p[0] = first;
    p
}

#[cfg(test)]
mod tests {
    use super::super::tree::tests::any_tree;
    use super::*;
    use proptest::prelude::*;

    fn tokens(curve: &GainCurve, nodes: usize) -> f64 {
        curve.tokens()(nodes)
    }

    /// Expected tokens at 16, 64, 256 and 1024 nodes, as published.
    #[test]
    fn nothing_measured_is_sequoias_curve() {
        let p = acceptance(PUBLISHED_ACCEPTANCE[0]);
        assert_eq!(p, PUBLISHED_ACCEPTANCE);
        let curve = GainCurve::new().tokens();
        for (nodes, published) in [(0, 1.0), (16, 4.6), (64, 5.93), (256, 7.29), (1024, 8.65)] {
            assert!((curve(nodes) - published).abs() < 0.02, "{nodes}: {}", curve(nodes));
        }
    }

    /// Two trees that were right to their ends say that the draft is good, not that it ends there. What
    /// qwen2.5-coder-0.5b has for its larger sibling, right 93 times of 100, is about what is expected.
    #[test]
    fn first_choices_tell_of_trees_that_were_not_tried() {
        let mut few = GainCurve::new();
        let all: Vec<usize> = (1..=16).collect();
        (0..2).for_each(|_| few.record(&chain(16), &all));
        assert!((16.0..20.0).contains(&tokens(&few, 64)), "{}", tokens(&few, 64));
        let mut wrong = GainCurve::new();
        (0..2).for_each(|_| wrong.record(&chain(16), &[]));
        assert!(tokens(&wrong, 64) < 5.0, "{}", tokens(&wrong, 64));

        let p = acceptance(0.93);
        let measured = [(4, 4.3), (8, 6.7), (16, 10.1), (32, 14.1)];
        for (nodes, measured) in measured {
            let expected = greedy_tree(&p, nodes + 1, usize::MAX).expected_tokens(&p);
            assert!((expected / measured - 1.0).abs() < 0.1, "{nodes}: {expected} {measured}");
        }
        assert!(acceptance(0.0).iter().all(|&p| p == 0.0));
        assert_eq!(acceptance(1.0)[1..], [0.0; 14]);
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
        for (nodes, seen) in [(0, 1.0), (1, 2.0), (2, 2.5), (4, 3.5), (8, 4.0), (16, 4.0)] {
            let tokens = tokens(&curve, nodes);
            assert!((tokens - seen).abs() < 0.05, "{nodes}: {tokens}");
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
        assert!((tokens(&curve, 8) - 9.0).abs() < 0.1, "{}", tokens(&curve, 8));
        assert!((tokens(&curve, 11) - 10.5).abs() < 0.2, "{}", tokens(&curve, 11));
    }

    #[test]
    fn a_change_is_followed() {
        let mut curve = GainCurve::new();
        for (at, rounds) in [(&[1, 2, 3, 4][..], 500), (&[], 10_000)] {
            for _ in 0..rounds {
                curve.record(&chain(4), at);
            }
        }
        assert!(tokens(&curve, 4) < 1.05 && tokens(&curve, 2048) < 1.2, "{}", tokens(&curve, 2048));
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
            let tokens: Vec<f64> = (0..5000).step_by(7).map(curve.tokens()).collect();
            prop_assert!(tokens.iter().all(|tokens| tokens.is_finite()));
            prop_assert!(tokens.windows(2).all(|pair| pair[0] <= pair[1] + 1e-9));
            let text = serde_json::to_string(&curve).unwrap();
            prop_assert_eq!(serde_json::from_str::<GainCurve>(&text).unwrap(), curve);
        }
    }
}
