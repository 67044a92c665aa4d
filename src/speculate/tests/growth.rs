//! The best-first search against all prefixes of a tiny vocabulary.

use crate::sample::NoiseKey;
use crate::speculate::{Expand, Forest, GrowthLimits, Tree, greedy_tree};
use proptest::prelude::*;

const WIDE: GrowthLimits = GrowthLimits {
    budget: usize::MAX,
    depth: usize::MAX,
    width: usize::MAX,
    beams: usize::MAX,
    rounds: usize::MAX,
    tree_nodes: usize::MAX,
};

/// Log-probabilities of the next of `vocabulary` tokens after `path` in sequence `root`, a hash of them;
/// the greater `sharp`, the surer.
fn table(vocabulary: u32, sharp: f64, root: u32, path: &[u32]) -> Vec<(u32, f32)> {
    let hash = path.iter().fold(u64::from(root) + 1, |hash, &token| {
        (hash ^ u64::from(token)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23)
    });
    let score = |token| sharp * NoiseKey::new(hash, 0, 0).gumbel(token);
    let sum = (0..vocabulary).map(|token| score(token).exp()).sum::<f64>().ln();
    (0..vocabulary).map(|token| (token, (score(token) - sum) as f32)).collect()
}

/// Grows by tables whose sharpness each root has; also the rounds.
fn grow(mut forest: Forest, sharp: &dyn Fn(u32) -> f64) -> (Vec<Tree>, Vec<Vec<Expand>>) {
    let mut rounds = Vec::new();
    loop {
        let round = forest.next_round();
        if round.is_empty() {
            return (forest.finish(), rounds);
        }
        for &at in &round {
            let root = forest.node(Expand { node: 0, ..at }).token;
            let path = forest.path_tokens(at);
            assert_eq!(path.len(), forest.node(at).depth as usize);
            let rows = forest.path_expansions(at);
            assert!(rows[0] == 0 && rows.is_sorted() && rows.len() == path.len() + 1);
            forest.expand(at, &table(4, sharp(root), root, &path));
        }
        rounds.push(round);
    }
}

fn even(_: u32) -> f64 {
    1.5
}

/// Paths of a tree and their log-probabilities, sorted.
fn paths(tree: &Tree) -> Vec<(Vec<u32>, f32)> {
    let tokens = |node| tree.path(node).iter().map(|&node| tree.nodes()[node].token).collect();
    let mut paths: Vec<(Vec<u32>, f32)> =
        (1..tree.len()).map(|node| (tokens(node), tree.nodes()[node].log_p)).collect();
    paths.sort_by(|a, b| a.0.cmp(&b.0));
    paths
}

fn mass(trees: &[Tree]) -> f64 {
    let nodes = trees.iter().flat_map(|tree| &tree.nodes()[1..]);
    nodes.map(|node| f64::from(node.log_p).exp()).sum()
}

/// The best `budget` prefixes over all roots, by enumeration of all up to `depth`.
fn exhaustive(roots: &[u32], budget: usize, depth: usize, width: usize) -> Vec<Vec<Vec<u32>>> {
    let mut all: Vec<(f32, usize, Vec<u32>)> = Vec::new();
    for (tree, &root) in roots.iter().enumerate() {
        let mut level = vec![(0.0, Vec::new())];
        for _ in 0..depth {
            let mut next = Vec::new();
            for (log_p, path) in &level {
                let mut children = table(4, even(root), root, path);
                children.sort_by(|a, b| b.1.total_cmp(&a.1));
                for (token, conditional) in children.into_iter().take(width) {
                    next.push((log_p + conditional, [&path[..], &[token]].concat()));
                }
            }
            all.extend(next.iter().map(|(log_p, path)| (*log_p, tree, path.clone())));
            level = next;
        }
    }
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut best = vec![Vec::new(); roots.len()];
    all.into_iter().take(budget).for_each(|(_, tree, path)| best[tree].push(path));
    best.iter_mut().for_each(|paths| paths.sort());
    best
}

fn only_paths(trees: &[Tree]) -> Vec<Vec<Vec<u32>>> {
    trees.iter().map(|tree| paths(tree).into_iter().map(|(path, _)| path).collect()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The search finds the best prefixes, whatever the number of beams.
    #[test]
    fn growth_is_exhaustive_search(
        roots in prop::collection::hash_set(0u32..1000, 0..4),
        budget in 0usize..60,
        depth in 0usize..5,
        width in 0usize..5,
        beams in prop_oneof![1usize..8, Just(usize::MAX)],
    ) {
        let roots: Vec<u32> = roots.into_iter().collect();
        let limits = GrowthLimits { budget, depth, width, beams, ..WIDE };
        let (trees, rounds) = grow(Forest::new(&roots, limits), &even);
        prop_assert_eq!(only_paths(&trees), exhaustive(&roots, budget, depth, width));
        prop_assert!(rounds.iter().all(|round| round.len() <= beams));
    }

    #[test]
    fn limits_are_kept(
        trees in 1usize..4,
        budget in 0usize..50,
        (depth, width, beams) in (0usize..5, 0usize..4, 0usize..6),
        (rounds, tree_nodes) in (0usize..6, 0usize..20),
    ) {
        let roots: Vec<u32> = (0..trees as u32).collect();
        let limits = GrowthLimits { budget, depth, width, beams, rounds, tree_nodes };
        let (trees, made) = grow(Forest::new(&roots, limits), &even);
        prop_assert!(made.len() <= rounds && made.iter().all(|round| round.len() <= beams));
        prop_assert!(trees.iter().map(Tree::size).sum::<usize>() <= budget);
        for tree in &trees {
            prop_assert!(tree.size() <= tree_nodes && tree.height() <= depth);
            prop_assert!((0..tree.len()).all(|node| tree.children(node).count() <= width));
            // Whoever has children was computed by the draft, in the order of the path.
            for (at, node) in tree.nodes().iter().enumerate().skip(1) {
                let parent = tree.nodes()[node.parent as usize];
                prop_assert!(parent.expansion.is_some());
                prop_assert!(node.expansion.is_none_or(|own| Some(own) > parent.expansion), "{}", at);
            }
        }
    }

    /// A limit for each tree leaves its best nodes, and the budget goes to the other trees.
    #[test]
    fn a_full_tree_leaves_the_budget_to_others(budget in 1usize..40, tree_nodes in 1usize..20) {
        let limits = GrowthLimits { budget, tree_nodes, depth: 4, ..WIDE };
        let roots = [3, 4];
        let (trees, _) = grow(Forest::new(&roots, limits), &even);
        let (large, _) = grow(Forest::new(&roots, GrowthLimits { budget: 1000, ..limits }), &even);
        let mut wanted: Vec<f32> =
            large.iter().flat_map(|tree| &tree.nodes()[1..]).map(|node| node.log_p).collect();
        wanted.sort_by(|a, b| b.total_cmp(a));
        wanted.truncate(budget);
        let mut found: Vec<f32> =
            trees.iter().flat_map(|tree| &tree.nodes()[1..]).map(|node| node.log_p).collect();
        found.sort_by(|a, b| b.total_cmp(a));
        prop_assert_eq!(found, wanted);
    }

    #[test]
    fn larger_budgets_hold_smaller_ones(budget in 0usize..80) {
        let grown = |budget| {
            let limits = GrowthLimits { budget, depth: 6, beams: 8, ..WIDE };
            grow(Forest::new(&[1, 2], limits), &even).0
        };
        let (small, large) = (grown(budget), grown(budget + 7));
        prop_assert!(mass(&small) < mass(&large));
        for (small, large) in small.iter().zip(&large) {
            prop_assert_eq!(paths(small), paths(&large.trimmed(small.size())));
        }
    }

    #[test]
    fn the_order_of_trees_does_not_matter(budget in 0usize..80, beams in 1usize..20) {
        let limits = GrowthLimits { budget, depth: 5, beams, rounds: 5, ..WIDE };
        let (trees, _) = grow(Forest::new(&[5, 6, 7], limits), &even);
        let (turned, _) = grow(Forest::new(&[7, 5, 6], limits), &even);
        prop_assert_eq!(&turned, &[trees[2].clone(), trees[0].clone(), trees[1].clone()]);
    }

    /// A forest of one shape has it in every tree, filled with the likeliest children.
    #[test]
    fn shapes_are_filled(nodes in 1usize..40, depth in 0usize..5) {
        let shape = greedy_tree(&[0.6, 0.2, 0.1], nodes, depth);
        let (trees, rounds) = grow(Forest::with_shape(&[1, 2], shape.clone()), &even);
        prop_assert_eq!(rounds.len(), shape.height());
        for tree in trees {
            prop_assert_eq!(tree.size(), shape.size());
            let mut counts: Vec<usize> =
                (0..tree.len()).map(|node| tree.children(node).count()).collect();
            let mut wanted: Vec<usize> =
                (0..tree.len()).map(|node| shape.children(node).len()).collect();
            counts.sort_unstable();
            wanted.sort_unstable();
            prop_assert_eq!(counts, wanted);
        }
    }
}

#[test]
fn the_surer_sequence_gets_more_nodes() {
    let limits = GrowthLimits { budget: 64, depth: 16, ..WIDE };
    let sharp = |root| if root == 1 { 6.0 } else { 0.5 };
    let (trees, _) = grow(Forest::new(&[1, 2], limits), &sharp);
    assert!(trees[0].height() > 2 * trees[1].height());
    let few = GrowthLimits { budget: 8, ..limits };
    let (trees, _) = grow(Forest::new(&[1, 2], few), &sharp);
    assert!(trees[0].size() > 2 * trees[1].size());
}

#[test]
fn odd_input_is_left_out() {
    let limits = GrowthLimits { budget: 8, depth: 2, ..WIDE };
    assert!(Forest::new(&[], limits).next_round().is_empty());
    let mut forest = Forest::new(&[1], limits);
    let root = forest.next_round()[0];
    let odd = [(1, f32::NAN), (2, 0.5), (3, -1.0), (3, -0.5), (4, f32::NEG_INFINITY)];
    forest.expand(root, &odd);
    // Given twice, not asked for, not there.
    forest.expand(root, &[(9, -0.1)]);
    forest.expand(Expand { tree: 0, node: 1 }, &[(9, -0.1)]);
    forest.expand(Expand { tree: 7, node: 99 }, &[(9, -0.1)]);
    let tree = forest.finish().remove(0);
    let kept: Vec<(u32, f32)> =
        tree.nodes()[1..].iter().map(|node| (node.token, node.log_p)).collect();
    assert_eq!(kept, [(2, 0.0), (3, -0.5)]);
}

/// Prints what the search itself takes: run with `--ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn seconds_of_a_large_search() {
    let roots: Vec<u32> = (0..16).collect();
    let limits = GrowthLimits {
        budget: 2048,
        depth: 32,
        width: 32,
        beams: 128,
        rounds: 32,
        tree_nodes: 1024,
    };
    let tables: Vec<Vec<(u32, f32)>> = (0..64).map(|at| table(32, 2.0, at, &[])).collect();
    for roots in [&roots[..1], &roots] {
        let start = std::time::Instant::now();
        let (mut forest, mut asked) = (Forest::new(roots, limits), 0);
        loop {
            let round = forest.next_round();
            if round.is_empty() {
                break;
            }
            for at in round {
                forest.expand(at, &tables[asked % 64]);
                asked += 1;
            }
        }
        let trees = forest.finish();
        let (seconds, nodes) = (start.elapsed(), trees.iter().map(Tree::size).sum::<usize>());
        eprintln!("{} trees, {asked} expanded, {nodes} nodes: {seconds:?}", roots.len());
    }
}

#[test]
fn a_full_budget_promises_less() {
    let limits = GrowthLimits { budget: 2, depth: 8, width: 2, beams: 1, rounds: 8, ..WIDE };
    let mut forest = Forest::new(&[1], limits);
    let root = forest.next_round();
    assert!((forest.promise(&root) - 0.9).abs() < 1e-6, "nothing is in the way of the first child");
    forest.expand(root[0], &[(5, 0.5f32.ln()), (6, 0.4f32.ln())]);
    assert!((forest.expected() - 0.9).abs() < 1e-6);
    let next = forest.next_round();
    // A child of the first, at 0.45, in the place of the second, at 0.4.
    assert!((forest.promise(&next) - 0.05).abs() < 1e-6, "{}", forest.promise(&next));
}
