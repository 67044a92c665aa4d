//! Keyed noise: sampling as an argmax, with Gumbel noise that is a function of
//! (seed, choice, position, token) and of nothing else (Gumbel-max trick; Maddison et al. 2014).

/// The noise of one position of one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoiseKey(u64);

/// The finalizer of SplitMix64 (Steele et al. 2014): every input bit reaches every output bit.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

impl NoiseKey {
    /// The key of logical `position` in choice `choice` of a request with `seed`.
    pub fn new(seed: u64, choice: u32, position: usize) -> NoiseKey {
        let sequence = mix(mix(seed.wrapping_add(GOLDEN)).wrapping_add(u64::from(choice) + 1));
        NoiseKey(mix(sequence.wrapping_add((position as u64 + 1).wrapping_mul(GOLDEN))))
    }

    /// 52 random bits for `token`.
    fn bits(self, token: u32) -> u64 {
        mix(self.0.wrapping_add((u64::from(token) + 1).wrapping_mul(GOLDEN))) >> 12
    }

    /// Standard Gumbel noise for `token`: `-ln(-ln(u))`, with `u` strictly between 0 and 1.
    pub fn gumbel(self, token: u32) -> f64 {
        gumbel(uniform(self.bits(token)))
    }

    /// [`NoiseKey::gumbel`] if it may exceed `floor`; `None` only where it does not.
    ///
    /// `-ln(u) >= 1 - u` bounds the noise by `-ln(1 - u)`, which the leading ones of `u`'s bits tell
    /// without a logarithm: of a whole vocabulary, few tokens need more.
    pub fn gumbel_above(self, token: u32, floor: f64) -> Option<f64> {
        let bits = self.bits(token);
        // The slack covers the rounding of the noise itself.
        let ones_needed = floor * std::f64::consts::LOG2_E - 1e-6;
        let ones = (bits << 12).leading_ones();
        (ones_needed < f64::from(ones) + 1.0).then(|| gumbel(uniform(bits)))
    }
}

/// A bit more than the bits say, so that neither 0 nor 1 comes out; exact in an f64.
fn uniform(bits: u64) -> f64 {
    (bits as f64 + 0.5) * (1.0 / (1u64 << 52) as f64)
}

fn gumbel(u: f64) -> f64 {
    -(-u.ln()).ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn noise_is_finite_at_the_extremes() {
        assert!(gumbel(uniform(0)).is_finite());
        assert!(gumbel(uniform((1 << 52) - 1)).is_finite());
    }

    #[test]
    fn noise_is_uniform_and_differs_by_every_part_of_its_key() {
        let draw = |key: NoiseKey, token| uniform(key.bits(token));
        let base = NoiseKey::new(1, 0, 5);
        let mean: f64 = (0..100_000).map(|t| draw(base, t)).sum::<f64>() / 1e5;
        assert!((mean - 0.5).abs() < 0.005, "mean {mean}");
        for other in [NoiseKey::new(2, 0, 5), NoiseKey::new(1, 1, 5), NoiseKey::new(1, 0, 6)] {
            assert_ne!(draw(base, 9), draw(other, 9));
        }
    }

    proptest! {
        /// The shortcut never hides noise above the floor.
        #[test]
        fn nothing_above_the_floor_is_hidden(seed: u64, token: u32, floor in -5.0f64..40.0) {
            let key = NoiseKey::new(seed, 0, 0);
            let noise = key.gumbel(token);
            prop_assert_eq!(key.gumbel_above(token, noise), Some(noise));
            match key.gumbel_above(token, floor) {
                Some(found) => prop_assert_eq!(found, noise),
                None => prop_assert!(noise <= floor),
            }
        }
    }
}
