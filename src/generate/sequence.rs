//! One sequence between its admission and its end.

use super::drafter::Draftable;
use super::stop::StopScanner;
use super::{Completion, FinishReason, Request};
use crate::kernel::PAGE_LEN;
use crate::sample::{History, NoiseKey, Sampler};
use crate::schedule::CacheMove;
use crate::tokenizer::{Decoder, Tokenizer};

pub(super) struct Sequence<'t> {
    /// Its name among all sequences of an engine.
    pub(super) key: u64,
    request: Request,
    /// Prompt and output so far.
    pub(super) tokens: Vec<u32>,
    /// Positions whose keys and values are in the cache.
    pub(super) computed: usize,
    /// Cache pages owned.
    pub(super) pages: Vec<u32>,
    /// Rows of the cache that the next pass moves first: what was accepted of a tree.
    pub(super) moves: Vec<CacheMove>,
    history: History,
    scanner: StopScanner,
    decoder: Decoder<'t>,
}

impl<'t> Sequence<'t> {
    pub(super) fn new(key: u64, mut request: Request, tokenizer: &'t Tokenizer) -> Sequence<'t> {
        let history = if request.sampling.needs_history() {
            History::new(&request.prompt)
        } else {
            History::default()
        };
        Sequence {
            key,
            tokens: request.prompt.clone(),
            computed: 0,
            pages: Vec::new(),
            moves: Vec::new(),
            history,
            scanner: StopScanner::new(std::mem::take(&mut request.stop)),
            decoder: tokenizer.decoder(),
            request,
        }
    }

    /// Positions that a pass has still to compute.
    pub(super) fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Whether the next pass only decodes: all but the newest token are in the cache.
    pub(super) fn decodes(&self) -> bool {
        self.pending() == 1 && self.tokens.len() > self.request.prompt.len()
    }

    /// Pages needed once `rows` more positions are computed.
    pub(super) fn pages_for(&self, rows: usize) -> usize {
        (self.computed + rows).div_ceil(PAGE_LEN)
    }

    /// The newest token.
    pub(super) fn newest(&self) -> u32 {
        self.tokens[self.tokens.len() - 1]
    }

    /// Gives up what is in the cache; the pages are the caller's to give back.
    pub(super) fn start_over(&mut self) {
        self.computed = 0;
        self.moves.clear();
    }

    /// As a drafter sees it.
    pub(super) fn draftable(&self, context_len: usize) -> Draftable<'_> {
        let left = self.request.max_tokens - self.generated().len();
        let left = left.min(context_len.saturating_sub(self.tokens.len()));
        Draftable {
            key: self.key,
            tokens: &self.tokens,
            pages: &self.pages,
            computed: self.computed,
            sampling: &self.request.sampling,
            choice: self.request.choice,
            depth: left.saturating_sub(1),
        }
    }

    /// Whether tokens are chosen with noise.
    pub(super) fn is_noisy(&self) -> bool {
        self.request.sampling.temperature > 0.0
    }

    fn generated(&self) -> &[u32] {
        &self.tokens[self.request.prompt.len()..]
    }

    /// Chooses the token at the next position from its logits, and says whether the sequence ends.
    pub(super) fn advance(
        &mut self,
        logits: &[f32],
        sampler: &mut Sampler,
        tokenizer: &Tokenizer,
        context_len: usize,
    ) -> Option<FinishReason> {
        let request = &self.request;
        if logits.iter().all(|logit| logit.is_nan()) {
            return Some(FinishReason::Undefined);
        }
        let noise = NoiseKey::new(request.sampling.seed, request.choice, self.tokens.len());
        let token = sampler.sample(&request.sampling, logits, &self.history, noise);
        if tokenizer.is_end(token) && !request.ignore_eos {
            return self.end(FinishReason::Stop);
        }
        self.tokens.push(token);
        if request.sampling.needs_history() {
            self.history.push(token);
        }
        if self.scanner.push(&self.decoder.push(token)) {
            return Some(FinishReason::Stop);
        }
        let full = self.tokens.len() >= context_len;
        if full || self.generated().len() >= self.request.max_tokens {
            return self.end(FinishReason::Length);
        }
        None
    }

    /// Flushes held-back bytes; even they may complete a stop string.
    fn end(&mut self, reason: FinishReason) -> Option<FinishReason> {
        let stopped = self.scanner.push(&self.decoder.finish());
        Some(if stopped { FinishReason::Stop } else { reason })
    }

    pub(super) fn into_completion(self, finish: FinishReason) -> Completion {
        Completion {
            id: self.request.id,
            choice: self.request.choice,
            tokens: self.generated().to_vec(),
            text: self.scanner.into_text(),
            finish,
        }
    }
}
