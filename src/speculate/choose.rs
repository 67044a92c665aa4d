//! How many nodes a pass verifies: where expected tokens per second are most.

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
        if n > 0 {
            // `max` takes a NaN for the other operand: it promises nothing.
            tokens += f64::from(log_ps[n - 1]).exp().max(0.0).min(1.0);
        }
        let rate = tokens / seconds(sequences + n);
        if rate.is_finite() && rate > best_rate {
            (best, best_rate) = (n, rate);
        }
    }
    best
}

#[cfg(test)]
mod tests {
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
    }

    #[test]
    fn a_step_in_the_seconds_is_filled() {
        let tiles = |rows: usize| 1.0 + rows.div_ceil(64) as f64;
        assert_eq!(best_size(&[-1.0; 100], 1, &tiles), 63);
    }

    #[test]
    fn odd_input_is_no_speculation() {
        assert_eq!(best_size(&[], 0, &|_| 1.0), 0);
        assert_eq!(best_size(&[f32::NAN, f32::NEG_INFINITY], 3, &|rows| rows as f64), 0);
        assert_eq!(best_size(&[-0.1, -0.1], 3, &|_| f64::NAN), 0);
        assert_eq!(best_size(&[-0.1, -0.1], 3, &|_| 0.0), 0);
    }
}
