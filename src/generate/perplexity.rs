//! Perplexity by llama.cpp's convention: consecutive chunks, the second half of each scored.

use crate::exec::{ExecError, Executor};
use crate::kernel::PAGE_LEN;
use crate::schedule::{Batch, Span};

/// A perplexity and how far it reaches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// `exp` of the mean negative log-likelihood.
    pub value: f64,
    /// Standard error of `value`.
    pub error: f64,
    /// Chunks scored.
    pub chunks: usize,
    /// Tokens scored.
    pub tokens: usize,
}

/// Scores `tokens` in chunks of `context` positions, at most `chunks_max` of them; `bos` replaces the
/// first token of each chunk where the model wants one. `progress` is called after each chunk.
///
/// A chunk takes as many passes as the executor's rows and outputs make it; its cache must hold `context`
/// positions. At least one whole chunk of tokens is needed.
pub fn perplexity(
    executor: &mut Executor,
    tokens: &[u32],
    bos: Option<u32>,
    context: usize,
    chunks_max: usize,
    progress: &mut dyn FnMut(&Perplexity),
) -> Result<Perplexity, ExecError> {
    assert!(tokens.len() >= context && context >= 4);
    let pages: Vec<u32> = (0..context.div_ceil(PAGE_LEN) as u32).collect();
    let vocab = executor.spec().vocab;
    let (mut sum, mut squares, mut count) = (0.0, 0.0, 0);
    let mut result = Perplexity { value: f64::NAN, error: 0.0, chunks: 0, tokens: 0 };
    for chunk in tokens.chunks_exact(context).take(chunks_max) {
        let mut ids = chunk.to_vec();
        if let Some(bos) = bos {
            ids[0] = bos;
        }
        let mut done = 0;
        while done < context {
            let (rows, outputs) = (executor.config().rows, executor.config().outputs);
            let scored = done.max(context / 2);
            let end = context.min(done + rows).min(scored + outputs);
            let mut batch = Batch::default();
            let logits = end.saturating_sub(scored);
            batch.push(Span {
                tokens: &ids[done..end],
                start: done,
                pages: &pages,
                logits,
                moves: &[],
            });
            executor.pass(&batch, &mut |first, logits| {
                for (i, logits) in logits.chunks_exact(vocab).enumerate() {
                    // The last row predicts a token of the next chunk: not scored.
                    if let Some(&next) = chunk.get(scored + first + i + 1) {
                        let loss = -log_probability(logits, next);
                        sum += loss;
                        squares += loss * loss;
                        count += 1;
                    }
                }
            })?;
            done = end;
        }
        let mean = sum / f64::from(count);
        let variance = (squares / f64::from(count) - mean * mean) / f64::from(count - 1);
        result = Perplexity {
            value: mean.exp(),
            error: variance.max(0.0).sqrt() * mean.exp(),
            chunks: result.chunks + 1,
            tokens: count as usize,
        };
        progress(&result);
    }
    Ok(result)
}

fn log_probability(logits: &[f32], token: u32) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - most).exp()).sum();
    f64::from(logits[token as usize] - most) - sum.ln()
}
