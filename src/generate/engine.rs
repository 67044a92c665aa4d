//! Continuous batching: sequences enter and leave between passes.

use super::sequence::Sequence;
use super::{Completion, FinishReason, Request};
use crate::exec::{ExecError, Executor};
use crate::sample::for_rows;
use crate::schedule::{Batch, PagePool, Span};
use crate::tokenizer::Tokenizer;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What stops the engine, or a request at the door.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A pass failed.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// A request without a prompt.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A prompt that leaves no room for output.
    #[error("the prompt has {prompt} tokens, and a sequence may have {context_len} in all")]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Longest sequence.
        context_len: usize,
    },
    /// A request for which the cache is too small.
    #[error("prompt and output may take {positions} positions, and the KV cache holds {cache}")]
    CacheTooSmall {
        /// Positions that the request may come to.
        positions: usize,
        /// Positions of the cache.
        cache: usize,
    },
    /// A token id outside the vocabulary.
    #[error("token id {token} is not in the vocabulary of {vocab}")]
    NoSuchToken {
        /// The id.
        token: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
}

/// Limits of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Most sequences in a pass.
    pub batch: usize,
    /// Most prompt positions in a pass.
    pub prefill_chunk: usize,
    /// Longest sequence, prompt and output.
    pub context_len: usize,
}

impl EngineConfig {
    /// Most rows of a pass: what the executor's workspace must hold.
    pub fn rows(&self) -> usize {
        self.batch + self.prefill_chunk
    }
}

/// Work done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EngineStats {
    /// Passes run.
    pub passes: u64,
    /// Prompt positions computed, recomputation after preemption included.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Sequences that lost their pages to an older one and started over.
    pub preemptions: u64,
    /// Time of passes, shared out between prompt and output positions by their number.
    pub prefill: Duration,
    /// The same for decoding.
    pub decode: Duration,
    /// The same two as the event clock of the schedule has them; 0 where nothing is simulated.
    pub simulated_prefill: f64,
    /// See above.
    pub simulated_decode: f64,
}

/// Runs requests to completion, as many at once as limits and cache allow.
pub struct Engine<'t> {
    executor: Executor,
    tokenizer: &'t Tokenizer,
    config: EngineConfig,
    pool: PagePool,
    /// Oldest first; a preempted sequence comes back to the front.
    waiting: VecDeque<Sequence<'t>>,
    /// Oldest first.
    active: Vec<Sequence<'t>>,
    /// Requests that ended without a pass.
    done: Vec<Completion>,
    batch: Batch,
    stats: EngineStats,
}

/// What is left of an engine without its executor: every sequence that is not done.
pub struct Suspended<'t> {
    waiting: VecDeque<Sequence<'t>>,
    done: Vec<Completion>,
    stats: EngineStats,
}

/// Rows that one sequence brings to a pass.
struct Share {
    sequence: usize,
    rows: usize,
    prompt: bool,
}

impl<'t> Engine<'t> {
    /// An engine over a loaded model. The executor's workspace must hold `config.rows()` rows; a request
    /// that may outgrow its cache is refused.
    pub fn new(executor: Executor, tokenizer: &'t Tokenizer, config: EngineConfig) -> Engine<'t> {
        assert!(executor.config().rows >= config.rows());
        Engine {
            pool: PagePool::new(executor.config().pages),
            executor,
            tokenizer,
            config,
            waiting: VecDeque::new(),
            active: Vec::new(),
            done: Vec::new(),
            batch: Batch::default(),
            stats: EngineStats::default(),
        }
    }

    /// Ends an engine, and gives back what its executor holds. Sequences keep their tokens.
    pub fn suspend(mut self) -> Suspended<'t> {
        for mut sequence in self.active.drain(..).rev() {
            sequence.pages.clear();
            sequence.computed = 0;
            self.waiting.push_front(sequence);
        }
        Suspended { waiting: self.waiting, done: self.done, stats: self.stats }
    }

    /// Goes on with another executor, which computes the tokens so far again. Its cache must hold every
    /// sequence.
    pub fn resume(
        executor: Executor,
        tokenizer: &'t Tokenizer,
        config: EngineConfig,
        suspended: Suspended<'t>,
    ) -> Engine<'t> {
        let Suspended { waiting, done, stats } = suspended;
        Engine { waiting, done, stats, ..Engine::new(executor, tokenizer, config) }
    }

    /// Queues a request.
    pub fn submit(&mut self, request: Request) -> Result<(), EngineError> {
        let (prompt, context_len) = (request.prompt.len(), self.config.context_len);
        let vocab = self.executor.spec().vocab;
        if prompt == 0 {
            return Err(EngineError::EmptyPrompt);
        }
        if prompt >= context_len {
            return Err(EngineError::PromptTooLong { prompt, context_len });
        }
        let (positions, cache) =
            ((prompt + request.max_tokens).min(context_len), self.executor.cache_positions());
        if positions > cache {
            return Err(EngineError::CacheTooSmall { positions, cache });
        }
        if let Some(&token) = request.prompt.iter().find(|&&token| token as usize >= vocab) {
            return Err(EngineError::NoSuchToken { token, vocab });
        }
        let empty = request.max_tokens == 0;
        let sequence = Sequence::new(request, self.tokenizer);
        if empty {
            self.done.push(sequence.into_completion(FinishReason::Length));
        } else {
            self.waiting.push_back(sequence);
        }
        Ok(())
    }

    /// Whether the queue is short of work for the next passes.
    pub fn wants_more(&self) -> bool {
        self.waiting.len() < self.config.batch
    }

    /// Whether every request has been answered.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.active.is_empty() && self.done.is_empty()
    }

    /// Longest sequence.
    pub fn context_len(&self) -> usize {
        self.config.context_len
    }

    /// Sequences in the cache now.
    pub fn active(&self) -> usize {
        self.active.len()
    }

    /// Work done so far.
    pub fn stats(&self) -> EngineStats {
        self.stats
    }

    /// What runs the passes.
    pub fn executor(&self) -> &Executor {
        &self.executor
    }

    /// Runs one pass and returns the sequences that ended with it.
    pub fn step(&mut self) -> Result<Vec<Completion>, EngineError> {
        let shares = self.compose();
        if shares.is_empty() {
            return Ok(std::mem::take(&mut self.done));
        }
        self.batch.clear();
        // The sequence of each output row: one row, the last, of every share that completes a prefix.
        let mut wanting = Vec::new();
        for share in &shares {
            let sequence = &self.active[share.sequence];
            let last = share.rows == sequence.pending();
            let end = sequence.computed + share.rows;
            self.batch.push(Span {
                tokens: &sequence.tokens[sequence.computed..end],
                start: sequence.computed,
                pages: &sequence.pages,
                logits: usize::from(last),
                moves: &[],
            });
            if last {
                wanting.push(share.sequence);
            }
        }
        let ended = self.run_pass(&shares, &wanting)?;
        Ok(self.collect(ended))
    }

    /// Chooses the rows of the next pass: every decoding sequence first, then prompts, oldest first.
    fn compose(&mut self) -> Vec<Share> {
        let mut shares = Vec::new();
        let mut chunk = self.config.prefill_chunk;
        let mut index = 0;
        loop {
            if index == self.active.len() && (chunk == 0 || !self.admit()) {
                break;
            }
            let sequence = &self.active[index];
            let prompt = !sequence.decodes();
            let rows = if prompt { sequence.pending().min(chunk) } else { 1 };
            if rows > 0 && self.reserve(index, rows) {
                chunk -= if prompt { rows } else { 0 };
                shares.push(Share { sequence: index, rows, prompt });
            }
            // Preemption takes the newest, so indices up to here stay valid.
            index += 1;
            if index > self.active.len() {
                break;
            }
        }
        shares
    }

    /// Moves the oldest waiting sequence to the active ones if there is room for its prompt.
    fn admit(&mut self) -> bool {
        if self.active.len() >= self.config.batch {
            return false;
        }
        let Some(sequence) = self.waiting.front() else { return false };
        if sequence.pages_for(sequence.pending()) > self.pool.available() {
            return false;
        }
        self.active.extend(self.waiting.pop_front());
        true
    }

    /// Gets the pages for `rows` more positions of sequence `index`, from newer ones if need be.
    /// False if it was itself the newest and went back to wait.
    fn reserve(&mut self, index: usize, rows: usize) -> bool {
        loop {
            let sequence = &mut self.active[index];
            let count = sequence.pages_for(rows);
            if self.pool.grow(&mut sequence.pages, count) {
                return true;
            }
            let mut newest = self.active.pop().expect("a sequence is asking");
            self.pool.release(&mut newest.pages);
            newest.computed = 0;
            self.waiting.push_front(newest);
            self.stats.preemptions += 1;
            if self.active.len() == index {
                return false;
            }
        }
    }

    /// Runs the pass and samples; returns the sequences that ended, with their reasons.
    fn run_pass(
        &mut self,
        shares: &[Share],
        wanting: &[usize],
    ) -> Result<Vec<(usize, FinishReason)>, EngineError> {
        let start = Instant::now();
        let vocab = self.executor.spec().vocab;
        let context_len = self.config.context_len;
        let Engine { executor, active, tokenizer, batch, .. } = self;
        let mut ended = Vec::new();
        executor.pass(batch, &mut |first, logits| {
            let wanting = &wanting[first..first + logits.len() / vocab];
            let finished =
                for_rows(chosen(active, wanting), logits, vocab, |sampler, own, logits| {
                    own.computed = own.tokens.len();
                    own.advance(logits, sampler, tokenizer, context_len)
                });
            let finished = wanting.iter().zip(finished);
            ended.extend(finished.filter_map(|(&index, finish)| Some((index, finish?))));
        })?;
        let prompt_rows: usize = shares.iter().filter(|s| s.prompt).map(|s| s.rows).sum();
        for share in shares.iter().filter(|s| !wanting.contains(&s.sequence)) {
            self.active[share.sequence].computed += share.rows;
        }
        let elapsed = start.elapsed();
        let share = prompt_rows as f64 / self.batch.rows() as f64;
        let prefill = elapsed.mul_f64(share);
        let simulated = self.executor.simulated_seconds();
        self.stats.simulated_prefill += simulated * share;
        self.stats.simulated_decode += simulated * (1.0 - share);
        self.stats.passes += 1;
        self.stats.prompt_tokens += prompt_rows as u64;
        self.stats.generated_tokens += wanting.len() as u64;
        self.stats.prefill += prefill;
        self.stats.decode += elapsed - prefill;
        Ok(ended)
    }

    fn collect(&mut self, mut ended: Vec<(usize, FinishReason)>) -> Vec<Completion> {
        let mut completions = std::mem::take(&mut self.done);
        ended.sort_unstable_by_key(|&(index, _)| index);
        for (index, finish) in ended.into_iter().rev() {
            let mut sequence = self.active.remove(index);
            self.pool.release(&mut sequence.pages);
            completions.push(sequence.into_completion(finish));
        }
        completions
    }
}

/// The sequences at `indices`, which ascend.
fn chosen<'a, 't>(all: &'a mut [Sequence<'t>], indices: &[usize]) -> Vec<&'a mut Sequence<'t>> {
    let mut indices = indices.iter().peekable();
    let all = all.iter_mut().enumerate();
    all.filter_map(|(at, sequence)| indices.next_if(|&&index| index == at).map(|_| sequence))
        .collect()
}
