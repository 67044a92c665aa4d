//! How a draft ranks what may come next: by logits, or by logits and the noise that the target's
//! sampling will use.

use super::{NoiseKey, SamplingParams};
use std::cmp::Ordering;

/// Taken off the score of a token that the draft's own filters would drop: the target's filters may keep
/// what the draft's do not, but seldom.
const OUTSIDE: f64 = 4.0;

/// What lies so far below the likeliest token, in units of temperature, is left out of sums: less than a
/// 3-millionth of a vocabulary of 150,000 tokens in all.
const FAR: f32 = 27.0;

#[derive(Clone, Copy)]
struct Scored {
    token: u32,
    score: f64,
}

impl Scored {
    /// Best first; the lowest id among equals.
    fn order(&self, other: &Scored) -> Ordering {
        other.score.total_cmp(&self.score).then(self.token.cmp(&other.token))
    }
}

/// Bytes that scoring `vocab` tokens takes for a while, at most.
pub(super) fn bytes(vocab: usize) -> usize {
    vocab * size_of::<f32>()
}

/// The `width` tokens that a draft with these logits `[vocab]` would try first, best first, with their
/// scores: the logit at temperature 0, else `logit / temperature + G(token)` with the noise that the
/// target's own sampling of this position will use (shared Gumbel noise; Daliri et al. 2024). Penalties
/// and biases are not counted.
pub fn draft_scores(
    params: &SamplingParams,
    logits: &[f32],
    noise: NoiseKey,
    width: usize,
) -> Vec<(u32, f32)> {
    let mut best = Best { width, found: Vec::with_capacity(width + 1) };
    if width == 0 {
        return Vec::new();
    }
    if params.temperature <= 0.0 {
        for (token, &logit) in (0u32..).zip(logits) {
            let score = f64::from(logit);
            if score > best.floor() {
                best.insert(Scored { token, score });
            }
        }
    } else {
        let temperature = f64::from(params.temperature);
        let kept = kept_above(params, logits);
        for (token, &logit) in (0u32..).zip(logits) {
            let outside = if logit >= kept { 0.0 } else { OUTSIDE };
            let score = f64::from(logit) / temperature - outside;
            let floor = best.floor();
            let noisy = noise.gumbel_above(token, floor - score).map(|gumbel| score + gumbel);
            if let Some(score) = noisy.filter(|&noisy| noisy > floor) {
                best.insert(Scored { token, score });
            }
        }
    }
    best.found.iter().map(|scored| (scored.token, scored.score as f32)).collect()
}

/// The best so far, in order.
struct Best {
    width: usize,
    found: Vec<Scored>,
}

impl Best {
    /// What a score must exceed to be among them.
    fn floor(&self) -> f64 {
        match self.found.last() {
            Some(last) if self.found.len() == self.width => last.score,
            _ => f64::NEG_INFINITY,
        }
    }

    fn insert(&mut self, scored: Scored) {
        let at = self.found.partition_point(|other| other.order(&scored) == Ordering::Less);
        self.found.insert(at, scored);
        self.found.truncate(self.width);
    }
}

/// The logit from which on the filters keep a token: each of them keeps the likeliest.
fn kept_above(params: &SamplingParams, logits: &[f32]) -> f32 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut kept = f32::NEG_INFINITY;
    if params.min_p > 0.0 {
        kept = kept.max(most + params.temperature * params.min_p.ln());
    }
    if params.top_k == 0 && params.top_p >= 1.0 {
        return kept;
    }
    let near = most - FAR * params.temperature;
    let mut likely: Vec<f32> = Vec::with_capacity(logits.len());
    likely.extend(logits.iter().copied().filter(|&logit| logit >= near));
    likely.sort_unstable_by(|a, b| b.total_cmp(a));
    if params.top_k > 0 {
        likely.truncate(params.top_k);
    }
    let weight = |logit: f32| f64::from(((logit - most) / params.temperature).exp());
    let wanted = f64::from(params.top_p) * likely.iter().copied().map(weight).sum::<f64>();
    let mut sum = 0.0;
    let crossing = likely.iter().copied().find(|&logit| {
        sum += weight(logit);
        sum >= wanted
    });
    kept.max(crossing.or(likely.last().copied()).unwrap_or(f32::NEG_INFINITY))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{History, Sampler};
    use proptest::prelude::*;

    proptest! {
        /// A draft that has the target's logits puts the token that sampling takes first.
        #[test]
        fn the_first_is_what_sampling_takes(
            logits in prop::collection::vec(-20.0f32..20.0, 2..300),
            seed: u64, temperature in prop_oneof![Just(0.0f32), 0.1f32..2.0],
            top_p in prop_oneof![Just(1.0f32), 0.05f32..1.0],
            top_k in 0usize..20, min_p in prop_oneof![Just(0.0f32), 0.0f32..0.5],
        ) {
            let params =
                SamplingParams { temperature, seed, top_p, top_k, min_p, ..Default::default() };
            let noise = NoiseKey::new(seed, 0, 3);
            let sampled = Sampler::default().sample(&params, &logits, &History::default(), noise);
            let scores = draft_scores(&params, &logits, noise, 8);
            prop_assert_eq!(scores.len(), logits.len().min(8));
            prop_assert!(scores.is_sorted_by(|a, b| a.1 >= b.1));
            // The draft keeps in its list what filters drop, for a price.
            let first = scores.iter().position(|&(token, _)| token == sampled);
            let filtered = top_p < 1.0 || top_k > 0 || min_p > 0.0;
            prop_assert!(filtered || first == Some(0), "{:?} {}", scores, sampled);
        }
    }

    #[test]
    fn filters_are_a_threshold() {
        let logits: Vec<f32> = [0.5f32, 0.3, 0.15, 0.05].iter().map(|p| p.ln()).collect();
        let params = |top_p, top_k, min_p| SamplingParams {
            temperature: 1.0,
            top_p,
            top_k,
            min_p,
            ..Default::default()
        };
        let kept = |params| {
            let above = kept_above(&params, &logits);
            logits.iter().filter(|&&logit| logit >= above).count()
        };
        assert_eq!(kept(params(1.0, 0, 0.0)), 4);
        assert_eq!(kept(params(0.7, 0, 0.0)), 2);
        assert_eq!(kept(params(1.0, 3, 0.0)), 3);
        assert_eq!(kept(params(0.9, 3, 0.0)), 3);
        assert_eq!(kept(params(1.0, 0, 0.2)), 3);
        assert_eq!(kept(params(0.9, 3, 0.5)), 2);
    }

    #[test]
    fn odd_logits_are_survived() {
        let params = SamplingParams { temperature: 1.0, top_p: 0.5, ..Default::default() };
        let odd = [f32::NAN, f32::NEG_INFINITY, 1.0, f32::NAN];
        let found = draft_scores(&params, &odd, NoiseKey::new(0, 0, 0), 3);
        assert!(found.iter().all(|(_, score)| !score.is_nan()), "{found:?}");
        assert_eq!(draft_scores(&params, &[], NoiseKey::new(0, 0, 0), 3), []);
    }
}
