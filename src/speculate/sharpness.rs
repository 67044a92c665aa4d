//! How far a draft's scores are to be trusted, fitted to what the target sampled.

use serde::{Deserialize, Serialize};

/// Number of values that tau can take.
const GRID: usize = 17;
/// The least of them, and how many times the one before each next one is: 0.1 … 3.6.
const TAU_MIN: f64 = 0.1;
const TAU_STEP: f64 = 1.25;
/// What an observation counts after the next one: the last thousand or so decide.
const DECAY: f64 = 0.999;
/// How widely tau is expected around its first value, as a standard deviation of its logarithm.
const SPREAD: f64 = 0.5;
/// Observations that the first value of the hit rate counts as.
const HIT_WEIGHT: f64 = 10.0;
const HIT_RATE: f64 = 0.9;
/// No one outcome is taken for less likely than this, or it would decide alone.
const LOG_P_MIN: f64 = -20.0;

/// The probability that child c of an expanded node is the one followed:
/// hit · softmax(s / tau) of its score s, among the children that the draft listed.
///
/// Scores are logarithms of the draft's probabilities, or these over the temperature plus the keyed
/// sampler's Gumbel noise at the position, which the target's sampling will add too; a small tau then
/// says that draft and target mostly agree. `hit` is the rate at which any child listed was followed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sharpness {
    /// Tau before anything was observed.
    prior_tau: f64,
    /// Decayed log-likelihood of what was followed, by tau.
    log_likelihood: [f64; GRID],
    /// Decayed numbers of observations and of those where a child was followed.
    seen: f64,
    hits: f64,
    /// The present estimate.
    tau: f64,
}

impl Sharpness {
    /// Nothing observed: tau is expected around `prior_tau`.
    pub fn new(prior_tau: f64) -> Sharpness {
        let tau = if prior_tau > 0.0 { prior_tau } else { 1.0 };
        let log_likelihood = [0.0; GRID];
        Sharpness { prior_tau: tau, log_likelihood, seen: 0.0, hits: 0.0, tau }
    }

    /// For scores that are log-probabilities alone: taken as they are at first.
    pub fn greedy() -> Sharpness {
        Sharpness::new(1.0)
    }

    /// For scores with the sampler's noise, where the target's have the same: sharper at first.
    pub fn noisy() -> Sharpness {
        Sharpness::new(0.5)
    }

    /// The present estimate of tau.
    pub fn tau(&self) -> f64 {
        self.tau
    }

    /// The present estimate of the probability that one of the children listed is followed.
    pub fn hit(&self) -> f64 {
        (self.hits + HIT_WEIGHT * HIT_RATE) / (self.seen + HIT_WEIGHT)
    }

    /// Log-probabilities that each of these children is the one followed, in the order of `scores`.
    pub fn log_ps(&self, scores: &[f32]) -> Vec<f32> {
        let log_hit = self.hit().ln();
        let most = highest(scores);
        let sum = log_sum(scores, most, self.tau);
        let log_p = |&score: &f32| {
            if score.is_finite() {
                (log_hit + (f64::from(score) - most) / self.tau - sum) as f32
            } else {
                f32::NEG_INFINITY
            }
        };
        scores.iter().map(log_p).collect()
    }

    /// Learns that of children with these scores, that with index `followed` was the target's token,
    /// or none of them.
    pub fn observe(&mut self, scores: &[f32], followed: Option<usize>) {
        let score = followed.and_then(|at| scores.get(at)).filter(|score| score.is_finite());
        self.seen = self.seen * DECAY + 1.0;
        self.hits = self.hits * DECAY + f64::from(u8::from(score.is_some()));
        // One child, or none followed, says nothing about tau.
        let Some(&score) = score.filter(|_| scores.len() > 1) else { return };
        let most = highest(scores);
        for (at, total) in self.log_likelihood.iter_mut().enumerate() {
            let tau = grid(at);
            let log_p = (f64::from(score) - most) / tau - log_sum(scores, most, tau);
            *total = *total * DECAY + log_p.max(LOG_P_MIN);
        }
        self.tau = self.mean_tau();
    }

    /// The mean of tau's logarithm under the prior and what was observed: smooth from the first
    /// observation on, and the likeliest value in the end.
    fn mean_tau(&self) -> f64 {
        let posterior = |at: usize| {
            let off = (grid(at) / self.prior_tau).ln() / SPREAD;
            self.log_likelihood[at] - 0.5 * off * off
        };
        let most = (0..GRID).map(posterior).fold(f64::NEG_INFINITY, f64::max);
        let (mut sum, mut weights) = (0.0, 0.0);
        for at in 0..GRID {
            let weight = (posterior(at) - most).exp();
            weights += weight;
            sum += weight * grid(at).ln();
        }
        if weights > 0.0 { (sum / weights).exp() } else { self.prior_tau }
    }
}

fn grid(at: usize) -> f64 {
    TAU_MIN * TAU_STEP.powi(at as i32)
}

/// The greatest score that is finite.
fn highest(scores: &[f32]) -> f64 {
    let finite = scores.iter().copied().filter(|score| score.is_finite());
    finite.map(f64::from).fold(f64::NEG_INFINITY, f64::max)
}

/// Logarithm of the sum of exp((s - most) / tau) over the scores that are finite.
fn log_sum(scores: &[f32], most: f64, tau: f64) -> f64 {
    let finite = scores.iter().copied().filter(|score| score.is_finite());
    finite.map(|score| ((f64::from(score) - most) / tau).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::NoiseKey;
    use proptest::prelude::*;

    /// Scores of 16 children, of a scale that varies from node to node, best first.
    fn scores(node: usize) -> Vec<f32> {
        let noise = |child| NoiseKey::new(1, 0, node).gumbel(child) as f32;
        let mut scores: Vec<f32> = (0..16).map(noise).collect();
        scores.sort_unstable_by(|a, b| b.total_cmp(a));
        scores
    }

    /// The child that is followed at a node, if it is one of softmax(scores / tau).
    fn draw(scores: &[f32], tau: f64, node: usize) -> usize {
        let key = NoiseKey::new(2, 0, node);
        let noisy = |child: usize| f64::from(scores[child]) / tau + key.gumbel(child as u32);
        (0..scores.len()).max_by(|&a, &b| noisy(a).total_cmp(&noisy(b))).unwrap()
    }

    #[test]
    fn a_known_tau_and_hit_rate_are_found() {
        for (tau, prior) in [(0.3, 1.0), (0.7, 0.5), (1.2, 0.5)] {
            let mut sharpness = Sharpness::new(prior);
            for node in 0..3000 {
                let scores = scores(node);
                let followed = (node % 4 != 0).then(|| draw(&scores, tau, node));
                sharpness.observe(&scores, followed);
            }
            let (found, hit) = (sharpness.tau(), sharpness.hit());
            assert!((found / tau).ln().abs() < 0.15, "tau {tau}: {found}");
            assert!((hit - 0.75).abs() < 0.02, "{hit}");
        }
    }

    #[test]
    fn a_perfect_draft_becomes_sharp_and_a_random_one_hopeless() {
        let (mut perfect, mut random) = (Sharpness::noisy(), Sharpness::noisy());
        for node in 0..1000 {
            perfect.observe(&scores(node), Some(0));
            // Of a vocabulary of 160, any token.
            let token = (NoiseKey::new(3, 0, node).gumbel(0).abs() * 1e6) as usize % 160;
            random.observe(&scores(node), (token < 16).then_some(token));
        }
        let scores = scores(5000);
        assert!(perfect.log_ps(&scores)[0] > -0.15, "{:?}", perfect.log_ps(&scores));
        let best = random.log_ps(&scores)[0].exp();
        assert!(best < 0.04, "{best}");
    }

    #[test]
    fn the_start_is_smooth() {
        let mut sharpness = Sharpness::noisy();
        assert_eq!((sharpness.tau(), sharpness.hit()), (0.5, 0.9));
        sharpness.observe(&scores(0), None);
        sharpness.observe(&scores(1), Some(9));
        assert!((0.4..0.8).contains(&sharpness.tau()) && sharpness.hit() > 0.8);
    }

    proptest! {
        /// Whatever comes in, what comes out are log-probabilities that sum to the hit rate.
        #[test]
        fn answers_are_probabilities(
            raw in prop::collection::vec(prop_oneof![
                -30.0f32..5.0, Just(f32::NAN), Just(f32::NEG_INFINITY), Just(f32::INFINITY),
                Just(f32::MAX), Just(f32::MIN),
            ], 0..8),
            followed in prop::collection::vec(prop::option::of(0usize..10), 0..6),
        ) {
            let mut sharpness = Sharpness::greedy();
            for followed in followed {
                sharpness.observe(&raw, followed);
            }
            let log_ps = sharpness.log_ps(&raw);
            prop_assert_eq!(log_ps.len(), raw.len());
            let finite = log_ps.iter().zip(&raw).filter(|(_, score)| score.is_finite());
            let sum: f32 = finite.map(|(log_p, _)| log_p.exp()).sum();
            let wanted = if raw.iter().any(|score| score.is_finite()) { sharpness.hit() } else { 0.0 };
            prop_assert!((f64::from(sum) - wanted).abs() < 1e-3, "{} {}", sum, wanted);
            prop_assert!(log_ps.iter().all(|log_p| *log_p <= 1e-5));
        }
    }
}
