//! Static trees against all trees, published numbers and chance.

use crate::sample::NoiseKey;
use crate::speculate::{PUBLISHED_ACCEPTANCE, StaticTree, choose_shape, greedy_tree, optimal_tree};
use proptest::prelude::*;

/// The most expected tokens of any tree of up to `nodes` nodes that grows from `tree`. Nodes are added
/// in the order of their parents, which every tree has.
fn exhaustive(tree: &StaticTree, p: &[f64], nodes: usize, depth: usize, from: usize) -> f64 {
    let mut best = tree.expected_tokens(p);
    let count = tree.size() + 1;
    if count < nodes {
        for parent in from..count {
            if tree.children(parent).len() < p.len() && (tree.depths()[parent] as usize) < depth {
                let mut larger = tree.clone();
                larger.push(parent);
                best = best.max(exhaustive(&larger, p, nodes, depth, parent));
            }
        }
    }
    best
}

fn sorted(mut p: Vec<f64>) -> Vec<f64> {
    p.sort_by(|a, b| b.total_cmp(a));
    p
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The dynamic program finds the best of all trees, for probabilities in any order.
    #[test]
    fn the_program_is_exhaustive_search(
        p in prop::collection::vec(0.0f64..1.0, 0..5),
        nodes in 0usize..8,
        depth in 0usize..8,
    ) {
        let tree = optimal_tree(&p, nodes, depth);
        prop_assert!(tree.size() < nodes.max(1) && tree.height() <= depth);
        let best = exhaustive(&StaticTree::new(), &p, nodes, depth, 0);
        prop_assert!((tree.expected_tokens(&p) - best).abs() < 1e-9);
    }

    /// Where probabilities do not increase, so does the greedy choice.
    #[test]
    fn the_greedy_choice_is_the_program(
        p in prop::collection::vec(0.0f64..1.0, 1..6).prop_map(sorted),
        nodes in 1usize..40,
        depth in 0usize..8,
    ) {
        let greedy = greedy_tree(&p, nodes, depth);
        let program = optimal_tree(&p, nodes, depth);
        prop_assert!((greedy.expected_tokens(&p) - program.expected_tokens(&p)).abs() < 1e-9);
    }

    #[test]
    fn odd_probabilities_do_no_harm(
        p in prop::collection::vec(prop_oneof![Just(f64::NAN), -1.0f64..2.0], 0..4),
        nodes in 0usize..6,
        depth in prop_oneof![0usize..4, Just(usize::MAX)],
    ) {
        prop_assert!(greedy_tree(&p, nodes, depth).expected_tokens(&p) >= 1.0);
        prop_assert!(optimal_tree(&p, nodes, depth).expected_tokens(&p) >= 1.0);
        prop_assert!(choose_shape(&p, nodes, depth, &|_| f64::NAN, f64::NAN).nodes <= nodes.max(1));
    }
}

#[test]
fn a_tree_of_eight_is_exhaustive_search() {
    for p in [[0.3, 0.6, 0.2], [0.1, 0.2, 0.7]] {
        for depth in [1, 2, 7] {
            let tree = optimal_tree(&p, 8, depth);
            let best = exhaustive(&StaticTree::new(), &p, 8, depth, 0);
            assert!((tree.expected_tokens(&p) - best).abs() < 1e-12);
        }
    }
}

#[test]
fn published_expectations_come_out() {
    let wanted = [(16, 4.54), (32, 5.22), (64, 5.92), (128, 6.61), (256, 7.29), (1024, 8.65)];
    for (nodes, tokens) in wanted {
        let tree = greedy_tree(&PUBLISHED_ACCEPTANCE, nodes, usize::MAX);
        let found = tree.expected_tokens(&PUBLISHED_ACCEPTANCE);
        assert!((found - tokens).abs() < 0.006, "{nodes}: {found}");
    }
    for (depth, tokens) in [(18, 8.35), (25, 8.37)] {
        let found = greedy_tree(&PUBLISHED_ACCEPTANCE, 768, depth);
        let found = found.expected_tokens(&PUBLISHED_ACCEPTANCE);
        assert!((found - tokens).abs() < 0.006, "{depth}: {found}");
    }
}

/// One pass by chance: which child of each node is accepted, if any, is drawn until one is missing.
#[test]
fn chance_agrees_with_expectation() {
    let p = [0.5, 0.2, 0.1];
    let tree = greedy_tree(&p, 24, 6);
    let passes = 200_000;
    let mut tokens = 0;
    for pass in 0..passes {
        let mut node = 0;
        loop {
            tokens += 1;
            // Exponential noise gives a uniform number.
            let gumbel = NoiseKey::new(5, 0, pass).gumbel(node as u32);
            let mut left = (-(-gumbel).exp()).exp();
            let accepted = p.iter().position(|&p| {
                left -= p;
                left < 0.0
            });
            match accepted.and_then(|rank| tree.children(node).get(rank)) {
                Some(&child) => node = child as usize,
                None => break,
            }
        }
    }
    let mean = f64::from(tokens) / passes as f64;
    assert!((mean - tree.expected_tokens(&p)).abs() < 0.01, "{mean}");
}

#[test]
fn the_choice_is_the_best_of_all_sizes_and_depths() {
    let p = &PUBLISHED_ACCEPTANCE;
    // Rows are free up to 64, then each costs.
    let seconds = |rows: usize| 1.0 + 0.02 * rows.saturating_sub(64) as f64;
    let choice = choose_shape(p, 128, 12, &seconds, 0.05);
    let mut best = 0.0f64;
    for nodes in 1..=128 {
        for depth in 0..=12 {
            let tokens = greedy_tree(p, nodes, depth).expected_tokens(p);
            best = best.max(tokens / (seconds(nodes) + depth as f64 * 0.05));
        }
    }
    assert!((choice.tokens_per_second - best).abs() < 1e-9);
    let tree = greedy_tree(p, choice.nodes, choice.depth);
    assert!((tree.expected_tokens(p) - choice.tokens).abs() < 1e-9);
    assert!(choice.nodes >= 60 && choice.depth > 2);
    // A draft as slow as the target is not worth it.
    assert_eq!(choose_shape(p, 128, 12, &seconds, 2.0).nodes, 1);
}
