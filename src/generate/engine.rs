//! Continuous batching: sequences enter and leave between passes.

use super::sequence::Sequence;
use super::speculation::{Speculation, SpeculationStats};
use super::{Completion, FinishReason, Request};
use crate::exec::{ExecError, Executor};
use crate::schedule::{Batch, PagePool};
use crate::tokenizer::Tokenizer;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What stops the engine, or a request at the door.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A pass failed.
    #[error("{0}")]
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
    /// A sequence came from an engine with a larger cache.
    #[error(
        "a sequence has {positions} tokens and the KV cache holds {cache}, so that no pass can take it; a \
         plan for what is left has room for it"
    )]
    Stuck {
        /// Tokens of the sequence.
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
    /// Most nodes of draft trees in a pass, over all sequences.
    pub tree_budget: usize,
}

impl EngineConfig {
    /// Most rows of a pass: what the executor's workspace must hold.
    pub fn rows(&self) -> usize {
        self.batch + self.tree_budget + self.prefill_chunk
    }
}

/// Work done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EngineStats {
    /// Passes run.
    pub passes: u64,
    /// Prompt positions computed, recomputation after preemption included.
    pub prompt_tokens: u64,
    /// Tokens generated; end tokens, which no completion has, are among them.
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
    pub(super) executor: Executor,
    pub(super) tokenizer: &'t Tokenizer,
    pub(super) config: EngineConfig,
    pub(super) pool: PagePool,
    /// Oldest first; a preempted sequence comes back to the front.
    waiting: VecDeque<Sequence<'t>>,
    /// Oldest first.
    pub(super) active: Vec<Sequence<'t>>,
    /// Requests that ended without a pass.
    done: Vec<Completion>,
    pub(super) batch: Batch,
    pub(super) stats: EngineStats,
    pub(super) speculation: Option<Speculation>,
    /// What speculation did before this engine took over.
    trees: Option<SpeculationStats>,
    /// Name of the next sequence.
    next_key: u64,
}

/// What is left of an engine without its executor: every sequence that is not done.
pub struct Suspended<'t> {
    waiting: VecDeque<Sequence<'t>>,
    done: Vec<Completion>,
    stats: EngineStats,
    next_key: u64,
    trees: Option<SpeculationStats>,
}

impl Suspended<'_> {
    /// Notes why there will be no more draft trees.
    pub fn trees_ended(&mut self, why: String) {
        self.trees.get_or_insert_default().failure.get_or_insert(why);
    }
}

/// Rows that one sequence brings to a pass.
pub(super) struct Share {
    pub(super) sequence: usize,
    pub(super) rows: usize,
    pub(super) prompt: bool,
    /// Whether they are all that the sequence has still to compute.
    pub(super) whole: bool,
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
            speculation: None,
            trees: None,
            next_key: 0,
        }
    }

    /// Lets draft trees fill passes. They change no token.
    pub fn speculate(&mut self, mut speculation: Speculation) {
        assert!(speculation.budget() <= self.config.tree_budget);
        speculation.go_on(self.trees.take().unwrap_or_default());
        self.speculation = Some(speculation);
    }

    /// What draft trees did so far, if there were any.
    pub fn tree_stats(&self) -> Option<&SpeculationStats> {
        self.speculation.as_ref().map(Speculation::stats).or(self.trees.as_ref())
    }

    /// Speculation, if there is any.
    pub fn speculation(&self) -> Option<&Speculation> {
        self.speculation.as_ref()
    }

    /// Ends an engine, and gives back what its executor holds. Sequences keep their tokens.
    pub fn suspend(mut self) -> Suspended<'t> {
        for mut sequence in self.active.drain(..).rev() {
            sequence.pages.clear();
            sequence.start_over();
            self.waiting.push_front(sequence);
        }
        let trees = self.tree_stats().cloned();
        let Engine { waiting, done, stats, next_key, .. } = self;
        Suspended { waiting, done, stats, next_key, trees }
    }

    /// Goes on with another executor, which computes the tokens so far again. Its cache must hold every
    /// sequence: [`Engine::step`] fails at one that it does not.
    pub fn resume(
        executor: Executor,
        tokenizer: &'t Tokenizer,
        config: EngineConfig,
        suspended: Suspended<'t>,
    ) -> Engine<'t> {
        let Suspended { waiting, done, stats, next_key, trees } = suspended;
        let new = Engine::new(executor, tokenizer, config);
        Engine { waiting, done, stats, next_key, trees, ..new }
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
        let sequence = Sequence::new(self.next_key, request, self.tokenizer);
        self.next_key += 1;
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

    /// Most bytes that the model and its draft have held on the device.
    pub fn device_bytes_peak(&self) -> u64 {
        let draft = self.speculation.as_ref();
        let draft = draft.map_or(0, |draft| draft.device_bytes_peak(&self.executor));
        self.executor.memory().bytes_peak + draft
    }

    /// Runs one pass and returns the sequences that ended with it.
    pub fn step(&mut self) -> Result<Vec<Completion>, EngineError> {
        let shares = self.compose();
        if shares.is_empty() {
            return match self.waiting.front() {
                // With nothing in the cache there is still no room for it: that stays so.
                Some(sequence) if self.done.is_empty() => Err(EngineError::Stuck {
                    positions: sequence.tokens.len(),
                    cache: self.executor.cache_positions(),
                }),
                _ => Ok(std::mem::take(&mut self.done)),
            };
        }
        let start = Instant::now();
        let trees = self.draft(&shares)?;
        let ended = self.run_pass(&shares, &trees, start)?;
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
            let whole = rows == sequence.pending();
            if rows > 0 && self.reserve(index, rows) {
                chunk -= if prompt { rows } else { 0 };
                shares.push(Share { sequence: index, rows, prompt, whole });
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
            newest.start_over();
            if let Some(speculation) = &mut self.speculation {
                speculation.forget(newest.key);
            }
            self.waiting.push_front(newest);
            self.stats.preemptions += 1;
            if self.active.len() == index {
                return false;
            }
        }
    }

    fn collect(&mut self, mut ended: Vec<(usize, FinishReason)>) -> Vec<Completion> {
        let mut completions = std::mem::take(&mut self.done);
        ended.sort_unstable_by_key(|&(index, _)| index);
        for (index, finish) in ended.into_iter().rev() {
            let mut sequence = self.active.remove(index);
            self.pool.release(&mut sequence.pages);
            if let Some(speculation) = &mut self.speculation {
                speculation.forget(sequence.key);
            }
            completions.push(sequence.into_completion(finish));
        }
        completions
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::CpuDevice;
    use crate::exec::ExecutorConfig;
    use crate::sample::SamplingParams;
    use crate::store::ModelFiles;
    use std::path::Path;
    use std::sync::Arc;

    #[test]
    fn a_sequence_that_outgrew_its_next_engine_is_an_error() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny/llama");
        let files = Arc::new(ModelFiles::open(path.to_str().unwrap()).unwrap());
        let tokenizer = Tokenizer::new(&files.tokenizer_source().unwrap()).unwrap();
        let config = EngineConfig { batch: 2, prefill_chunk: 9, context_len: 64, tree_budget: 0 };
        let executor = |pages| {
            let device = Box::new(CpuDevice::new(Some(1)).unwrap());
            let sizes = ExecutorConfig::resident(config.rows(), pages);
            Executor::new(device, Arc::clone(&files), sizes, &mut |_, _| {}).unwrap()
        };
        let mut engine = Engine::new(executor(4), &tokenizer, config);
        let request = Request {
            id: 0,
            prompt: vec![1; 40],
            sampling: SamplingParams::default(),
            choice: 0,
            max_tokens: 8,
            stop: Vec::new(),
            ignore_eos: true,
        };
        engine.submit(request).unwrap();
        engine.step().unwrap();
        assert!(engine.device_bytes_peak() > 0);
        let mut engine = Engine::resume(executor(2), &tokenizer, config, engine.suspend());
        let error = engine.step().unwrap_err();
        assert!(matches!(error, EngineError::Stuck { positions: 40, cache: 32 }), "{error}");
    }
}
