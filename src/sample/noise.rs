//! Keyed noise: sampling as an argmax, with Gumbel noise that is a function of
//! (seed, choice, position, token) and of nothing else (Gumbel-max trick; Maddison et al. 2014).

/// Largest value [`NoiseKey::gumbel`] can return.
pub(super) const GUMBEL_MAX: f64 = 37.5;
/// Smallest value [`NoiseKey::gumbel`] can return.
pub(super) const GUMBEL_MIN: f64 = -3.7;

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

    /// A uniform number strictly between 0 and 1 for `token`: 52 bits and a half, exact in an f64.
    pub fn uniform(self, token: u32) -> f64 {
        let bits = mix(self.0.wrapping_add((u64::from(token) + 1).wrapping_mul(GOLDEN)));
        ((bits >> 12) as f64 + 0.5) * (1.0 / (1u64 << 52) as f64)
    }

    /// Standard Gumbel noise for `token`: `-ln(-ln(u))`.
    pub fn gumbel(self, token: u32) -> f64 {
        -(-self.uniform(token).ln()).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_at_the_extremes() {
        let gumbel = |u: f64| -(-u.ln()).ln();
        let half_step = 0.5 / (1u64 << 52) as f64;
        assert!(gumbel(1.0 - half_step) < GUMBEL_MAX);
        assert!(gumbel(half_step) > GUMBEL_MIN);
    }

    #[test]
    fn noise_is_uniform_and_differs_by_every_part_of_its_key() {
        let mean: f64 = (0..100_000).map(|t| NoiseKey::new(1, 0, 5).uniform(t)).sum::<f64>() / 1e5;
        assert!((mean - 0.5).abs() < 0.005, "mean {mean}");
        let base = NoiseKey::new(1, 0, 5);
        for other in [NoiseKey::new(2, 0, 5), NoiseKey::new(1, 1, 5), NoiseKey::new(1, 0, 6)] {
            assert_ne!(base.uniform(9), other.uniform(9));
        }
    }
}
