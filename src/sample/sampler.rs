//! From logits to a token: penalties, temperature, filters, keyed argmax.

use super::{History, NoiseKey, SamplingParams};

/// Chooses tokens; holds memory that is reused from call to call.
#[derive(Debug, Default)]
pub struct Sampler {
    logits: Vec<f32>,
    candidates: Vec<Candidate>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Candidate {
    token: u32,
    logit: f32,
}

impl Sampler {
    /// Bytes that one holds for `vocab` tokens at most.
    pub(super) fn bytes(vocab: usize) -> usize {
        vocab * (size_of::<f32>() + size_of::<Candidate>())
    }

    /// The token at the position of `noise`, given its logits `[vocab]`.
    ///
    /// At temperature 0 the most likely token, the lowest id among equals; otherwise
    /// `argmax(log p(v) + G(v))` over the tokens that the filters keep, in the order
    /// temperature, top-k, top-p, min-p.
    pub fn sample(
        &mut self,
        params: &SamplingParams,
        logits: &[f32],
        history: &History,
        noise: NoiseKey,
    ) -> u32 {
        let mut adjusted = std::mem::take(&mut self.logits);
        let logits = if params.adjusts_logits() {
            adjusted.clear();
            adjusted.extend_from_slice(logits);
            adjust(params, history, &mut adjusted);
            &adjusted
        } else {
            logits
        };
        let (best, most) = argmax(logits);
        let token = if params.temperature <= 0.0 {
            best
        } else {
            self.sample_noisy(params, logits, (best, most), noise)
        };
        self.logits = adjusted;
        token
    }

    fn sample_noisy(
        &mut self,
        params: &SamplingParams,
        logits: &[f32],
        (likeliest, most): (u32, f32),
        noise: NoiseKey,
    ) -> u32 {
        let temperature = f64::from(params.temperature);
        let mut best = (f64::from(most) / temperature + noise.gumbel(likeliest), likeliest);
        let mut consider = |token: u32, logit: f32| {
            let score = f64::from(logit) / temperature;
            if let Some(gumbel) = noise.gumbel_above(token, best.0 - score) {
                let score = score + gumbel;
                if score > best.0 || (score == best.0 && token < best.1) {
                    best = (score, token);
                }
            }
        };
        if params.keeps_all() {
            (0u32..).zip(logits).for_each(|(token, &logit)| consider(token, logit));
        } else {
            filter(params, logits, most, &mut self.candidates);
            self.candidates.iter().for_each(|c| consider(c.token, c.logit));
        }
        best.1
    }
}

impl SamplingParams {
    fn keeps_all(&self) -> bool {
        self.top_k == 0 && self.top_p >= 1.0 && self.min_p <= 0.0
    }

    fn adjusts_logits(&self) -> bool {
        self.needs_history() || !self.logit_bias.is_empty()
    }

    /// Whether a [`History`] has to be kept.
    pub fn needs_history(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.frequency_penalty != 0.0
            || self.presence_penalty != 0.0
    }
}

fn adjust(params: &SamplingParams, history: &History, logits: &mut [f32]) {
    for &(token, bias) in &params.logit_bias {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit += bias;
        }
    }
    if !params.needs_history() {
        return;
    }
    for (token, count) in history.iter() {
        let Some(logit) = logits.get_mut(token as usize) else { continue };
        let penalty = params.repetition_penalty;
        *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        if count > 0 {
            *logit -= params.presence_penalty + params.frequency_penalty * count as f32;
        }
    }
}

/// The largest logit and the first token that has it; NaN never wins.
fn argmax(logits: &[f32]) -> (u32, f32) {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let token = logits.iter().position(|&logit| logit == most).unwrap_or(0);
    (token as u32, most)
}

/// Fills `candidates` with the tokens that top-k, top-p and min-p keep; the likeliest is among them.
fn filter(params: &SamplingParams, logits: &[f32], most: f32, candidates: &mut Vec<Candidate>) {
    let weight = |logit: f32| ((logit - most) / params.temperature).exp();
    let all = (0u32..).zip(logits).map(|(token, &logit)| Candidate { token, logit });
    let likelier =
        |a: &Candidate, b: &Candidate| b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token));
    candidates.clear();
    // A filter does not tell how much comes through it: growing, the list would end up half empty.
    candidates.reserve_exact(logits.len());
    candidates.extend(all.filter(|c| !c.logit.is_nan()));
    if (1..candidates.len()).contains(&params.top_k) {
        candidates.select_nth_unstable_by(params.top_k - 1, likelier);
        candidates.truncate(params.top_k);
    }
    if params.top_p < 1.0 {
        let total: f64 = candidates.iter().map(|c| f64::from(weight(c.logit))).sum();
        // Tokens this unlikely could all go and the rest would still reach p: they need no sorting.
        let rest = (1.0 - f64::from(params.top_p)) * total / candidates.len() as f64;
        candidates.retain(|c| f64::from(weight(c.logit)) >= rest.min(1.0));
        candidates.sort_unstable_by(likelier);
        let wanted = f64::from(params.top_p) * total;
        let mut sum = 0.0;
        let crossing = candidates.iter().position(|c| {
            sum += f64::from(weight(c.logit));
            sum >= wanted
        });
        candidates.truncate(crossing.map_or(candidates.len(), |at| at + 1));
    }
    candidates.retain(|c| weight(c.logit) >= params.min_p);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn draw(params: &SamplingParams, logits: &[f32], position: usize) -> u32 {
        let noise = NoiseKey::new(params.seed, 0, position);
        Sampler::default().sample(params, logits, &History::default(), noise)
    }

    fn hot() -> SamplingParams {
        SamplingParams { temperature: 1.0, ..SamplingParams::default() }
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        assert_eq!(draw(&SamplingParams::default(), &[0.0, 2.0, f32::NAN, 2.0], 0), 1);
    }

    /// Keyed argmax samples the softmax: counts over positions against expected ones.
    #[test]
    fn frequencies_follow_the_softmax() {
        let p = [0.5f32, 0.25, 0.15, 0.1];
        let logits: Vec<f32> = p.iter().map(|p| p.ln() + 3.0).collect();
        let mut counts = [0.0; 4];
        let draws = 40_000;
        (0..draws).for_each(|at| counts[draw(&hot(), &logits, at) as usize] += 1.0);
        let expected = p.map(|p| f64::from(p) * f64::from(draws as u32));
        let chi2: f64 = counts.iter().zip(expected).map(|(c, e)| (c - e) * (c - e) / e).sum();
        assert!(chi2 < 21.1, "chi-square {chi2} at 3 degrees of freedom (p = 1e-4)");
    }

    #[test]
    fn top_p_keeps_the_token_that_crosses() {
        let logits: Vec<f32> = [0.5f32, 0.3, 0.2].iter().map(|p| p.ln()).collect();
        let kept = |top_p| {
            let params = SamplingParams { top_p, ..hot() };
            let mut seen: Vec<u32> = (0..500).map(|at| draw(&params, &logits, at)).collect();
            seen.sort_unstable();
            seen.dedup();
            seen
        };
        assert_eq!(kept(0.4), [0]);
        assert_eq!(kept(0.6), [0, 1]);
        assert_eq!(kept(0.9), [0, 1, 2]);
    }

    #[test]
    fn penalties_and_bias_move_the_choice() {
        let mut history = History::new(&[1]);
        let sample = |params: &SamplingParams, history: &History| {
            Sampler::default().sample(params, &[1.0, 1.5, 0.9], history, NoiseKey::new(0, 0, 0))
        };
        let neutral = SamplingParams::default();
        assert_eq!(sample(&neutral, &history), 1);
        let repetition = SamplingParams { repetition_penalty: 2.0, ..neutral.clone() };
        assert_eq!(sample(&repetition, &history), 0);
        let presence = SamplingParams { presence_penalty: 1.0, ..neutral.clone() };
        assert_eq!(sample(&presence, &history), 1, "the prompt does not count for presence");
        history.push(1);
        assert_eq!(sample(&presence, &history), 0);
        let bias = SamplingParams { logit_bias: vec![(2, 5.0), (99, 5.0)], ..neutral };
        assert_eq!(sample(&bias, &history), 2);
    }

    #[test]
    fn no_more_is_held_than_was_counted() {
        let logits: Vec<f32> = (0..1000u16).map(|i| f32::from(i % 7)).collect();
        let params = SamplingParams { top_p: 0.9, presence_penalty: 1.0, ..hot() };
        let mut sampler = Sampler::default();
        for len in [1000, 10, 1000] {
            let (history, noise) = (History::new(&[1]), NoiseKey::new(0, 0, len));
            sampler.sample(&params, &logits[..len], &history, noise);
            let Sampler { logits, candidates } = &sampler;
            let held = size_of::<f32>() * logits.capacity()
                + size_of::<Candidate>() * candidates.capacity();
            assert!(held <= Sampler::bytes(1000), "{held}");
        }
    }

    proptest! {
        /// Pruning by the range of the noise and filters that keep everything change no choice.
        #[test]
        fn shortcuts_change_nothing(
            logits in prop::collection::vec(-30.0f32..30.0, 2..200),
            seed: u64, temperature in 0.1f32..3.0,
        ) {
            let params = SamplingParams { temperature, seed, ..SamplingParams::default() };
            let noise = NoiseKey::new(seed, 0, 7);
            let naive = (0..logits.len() as u32)
                .map(|t| (f64::from(logits[t as usize]) / f64::from(temperature) + noise.gumbel(t), t))
                .max_by(|a, b| a.0.total_cmp(&b.0))
                .unwrap()
                .1;
            let all = SamplingParams { top_k: logits.len(), ..params.clone() };
            let sample = |p: &SamplingParams| Sampler::default().sample(p, &logits, &History::default(), noise);
            prop_assert_eq!(sample(&params), naive);
            prop_assert_eq!(sample(&all), naive);
        }
    }
}
