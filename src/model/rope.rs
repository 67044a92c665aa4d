//! Rotary frequencies and their scalings.

use super::hparams::{RopeScaling, out_of_range};
use super::{ModelError, RopeSpec};
use crate::kernel::RopeStyle;
use std::f64::consts::TAU;

/// The table for heads of which `rotary_dim` elements rotate.
///
/// Frequencies are computed in f64 and rounded once.
pub(super) fn rope_table(
    style: RopeStyle,
    rotary_dim: usize,
    base: f64,
    scaling: &RopeScaling,
) -> Result<RopeSpec, ModelError> {
    let pairs = rotary_dim / 2;
    check(scaling, pairs)?;
    let inv_freq: Vec<f32> = (0..pairs)
        .map(|i| {
            let plain = base.powf(-(2.0 * i as f64) / rotary_dim as f64);
            scaled(plain, i, scaling) as f32
        })
        .collect();
    match inv_freq.iter().find(|turn| !turn.is_finite()) {
        Some(turn) => Err(out_of_range("rotary frequency", turn, "a number of 32 bits")),
        None => Ok(RopeSpec { style, inv_freq }),
    }
}

fn check(scaling: &RopeScaling, pairs: usize) -> Result<(), ModelError> {
    let positive = |x: f64| x.is_finite() && x > 0.0;
    match scaling {
        RopeScaling::None => Ok(()),
        RopeScaling::Linear(factor) if positive(*factor) => Ok(()),
        RopeScaling::Linear(factor) => {
            Err(out_of_range("rotary scaling factor", factor, "a positive number"))
        }
        RopeScaling::Llama3 { factor, low, high, original_context } => {
            let all = [*factor, *low, *high, *original_context];
            if all.into_iter().all(positive) && high > low {
                return Ok(());
            }
            let found = format!("{all:?} (factor, low, high, original context)");
            Err(out_of_range("llama3 rotary scaling", found, "positive numbers with low < high"))
        }
        RopeScaling::Factors(factors) => {
            if factors.len() != pairs {
                let expected = format!("{pairs}, one a rotated pair");
                return Err(out_of_range("length of rope_freqs.weight", factors.len(), &expected));
            }
            match factors.iter().find(|&&f| !positive(f64::from(f))) {
                Some(f) => Err(out_of_range("rope_freqs.weight", f, "positive numbers")),
                None => Ok(()),
            }
        }
    }
}

fn scaled(plain: f64, pair: usize, scaling: &RopeScaling) -> f64 {
    match scaling {
        RopeScaling::None => plain,
        RopeScaling::Linear(factor) => plain / factor,
        RopeScaling::Factors(factors) => plain / f64::from(factors[pair]),
        RopeScaling::Llama3 { factor, low, high, original_context } => {
            let turns = original_context * plain / TAU;
            let keep = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 - keep) * plain / factor + keep * plain
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(scaling: RopeScaling) -> Vec<f32> {
        rope_table(RopeStyle::Halves, 128, 500_000.0, &scaling).expect("valid").inv_freq
    }

    /// transformers' `_compute_llama3_parameters` keeps pair 0, ramps in the middle, divides the
    /// tail.
    #[test]
    fn llama3_scaling_keeps_high_and_divides_low_frequencies() {
        let plain = table(RopeScaling::None);
        let scaled = table(RopeScaling::Llama3 {
            factor: 8.0,
            low: 1.0,
            high: 4.0,
            original_context: 8192.0,
        });
        assert_eq!(plain[0], scaled[0]);
        assert_eq!(plain[63] / 8.0, scaled[63]);
        let ramp =
            (0..64).filter(|&i| scaled[i] != plain[i] && scaled[i] != plain[i] / 8.0).count();
        assert!((3..12).contains(&ramp), "{ramp} pairs on the ramp");
    }

    #[test]
    fn bad_scalings_are_refused_by_name() {
        let refuse = |scaling| {
            rope_table(RopeStyle::Halves, 8, 1e4, &scaling).expect_err("refused").to_string()
        };
        assert!(refuse(RopeScaling::Linear(0.0)).contains("rotary scaling factor is 0"));
        assert!(refuse(RopeScaling::Factors(vec![1.0; 3])).contains("rope_freqs.weight is 3"));
        assert!(refuse(RopeScaling::Factors(vec![f32::NAN; 4])).contains("NaN"));
    }
}
