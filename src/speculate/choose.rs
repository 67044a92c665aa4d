//! How many nodes a pass verifies: where expected tokens per second are most.

use super::tree::{Tree, likelier};

/// The number n of nodes for which (`sequences` + the sum of the first n probabilities) /
/// `seconds(sequences + n)` is greatest; the least of equals.
///
/// `log_ps`: natural logarithms of the nodes' path probabilities, over all trees, descending.
/// `sequences`: rows that are computed in any case, each of which gives a token. `seconds`: of a pass
/// with so many rows and its draft; it need not be convex, since devices compute in tiles: every n is
/// looked at. 0 is plain decoding.
pub fn best_size(log_ps: &[f32], sequences: usize, seconds: &dyn Fn(usize) -> f64) -> usize {
    let (mut best, mut best_rate) = (0, 0.0);
    let mut tokens = sequences as f64;
    for n in 0..=log_ps.len() {
        let p = if n > 0 { f64::from(log_ps[n - 1]).exp() } else { 0.0 };
        // What is not a number promises nothing.
        if p > 0.0 {
            tokens += p.min(1.0);
        }
        let rate = tokens / seconds(sequences + n);
        if rate.is_finite() && rate > best_rate {
            (best, best_rate) = (n, rate);
        }
    }
    best
}

/// Log-probabilities of the nodes of all trees, roots left out, descending: for [`best_size`].
pub fn node_log_ps(trees: &[Tree]) -> Vec<f32> {
    let mut log_ps: Vec<f32> = ranked(trees).into_iter().map(|(log_p, ..)| log_p).collect();
    log_ps.sort_unstable_by(|a, b| b.total_cmp(a));
    log_ps
}

/// The trees of the `keep` likeliest nodes over all of them, roots not counted.
pub fn trim_to_best(trees: &[Tree], keep: usize) -> Vec<Tree> {
    let mut nodes = ranked(trees);
    // Equals are taken from all trees alike, and within a tree as `trimmed` takes them.
    nodes.sort_unstable_by(|a, b| likelier((a.0, a.1), (b.0, b.1)).then(a.2.cmp(&b.2)));
    let mut kept = vec![0; trees.len()];
    nodes.iter().take(keep).for_each(|&(.., tree)| kept[tree] += 1);
    trees.iter().zip(kept).map(|(tree, kept)| tree.trimmed(kept)).collect()
}

/// Log-probability, index and tree of all nodes but the roots.
fn ranked(trees: &[Tree]) -> Vec<(f32, usize, usize)> {
    let of_tree = |(at, tree): (usize, &Tree)| {
        let nodes = tree.nodes().iter().enumerate().skip(1);
        nodes.map(|(node, of)| (of.log_p, node, at)).collect::<Vec<_>>()
    };
    trees.iter().enumerate().flat_map(of_tree).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tree::tests::any_tree;
    use super::*;
    use proptest::prelude::*;

    fn sorted(mut log_ps: Vec<f32>) -> Vec<f32> {
        log_ps.sort_unstable_by(|a, b| b.total_cmp(a));
        log_ps
    }

    proptest! {
        /// Where every row costs the same, taking nodes while the next one pays more per second than
        /// all before it is the best.
        #[test]
        fn the_marginal_rule_on_linear_seconds(
            log_ps in prop::collection::vec(-8.0f32..0.0, 0..60).prop_map(sorted),
            sequences in 1usize..20,
            (fixed, row) in (0.1f64..20.0, 0.01f64..1.0),
        ) {
            let seconds = |rows: usize| fixed + row * rows as f64;
            let (mut tokens, mut n) = (sequences as f64, 0);
            while let Some(&log_p) = log_ps.get(n) {
                let p = f64::from(log_p).exp();
                if p / row <= tokens / seconds(sequences + n) {
                    break;
                }
                tokens += p;
                n += 1;
            }
            prop_assert_eq!(best_size(&log_ps, sequences, &seconds), n);
        }

        /// No other size is faster, whatever the seconds are.
        #[test]
        fn no_size_is_faster(
            log_ps in prop::collection::vec(-8.0f32..0.0, 0..40).prop_map(sorted),
            seconds in prop::collection::vec(0.1f64..2.0, 41),
        ) {
            let rate = |n: usize| {
                let sum: f64 = log_ps[..n].iter().map(|&log_p| f64::from(log_p).exp()).sum();
                (1.0 + sum) / seconds[n]
            };
            let best = best_size(&log_ps, 1, &|rows| seconds[rows - 1]);
            prop_assert!((0..=log_ps.len()).all(|n| rate(n) <= rate(best) * (1.0 + 1e-12)));
        }

        #[test]
        fn trimming_keeps_the_best_of_all(
            trees in prop::collection::vec(any_tree(), 0..5),
            keep in 0usize..60,
        ) {
            let all = node_log_ps(&trees);
            let trimmed = trim_to_best(&trees, keep);
            prop_assert_eq!(node_log_ps(&trimmed), &all[..keep.min(all.len())]);
            prop_assert!(trimmed.iter().zip(&trees).all(|(a, b)| *a == b.trimmed(a.size())));
        }
    }

    #[test]
    fn a_step_in_the_seconds_is_filled() {
        let tiles = |rows: usize| 1.0 + rows.div_ceil(64) as f64;
        assert_eq!(best_size(&[-1.0; 80], 1, &tiles), 63);
    }

    #[test]
    fn odd_input_is_no_speculation() {
        assert_eq!(best_size(&[], 0, &|_| 1.0), 0);
        assert_eq!(best_size(&[f32::NAN, f32::NEG_INFINITY], 3, &|rows| rows as f64), 0);
        assert_eq!(best_size(&[-0.1, -0.1], 3, &|_| f64::NAN), 0);
        assert_eq!(best_size(&[-0.1, -0.1], 3, &|_| 0.0), 0);
    }
}
