//! Feeds requests to an engine and writes down what comes back.

use super::lines::RawLine;
use super::parse::Parser;
use super::reply::{self, Choice};
use super::{Endpoint, Input, JobError, LineError, Output, Prompt, Task};
use crate::generate::{Completion, FinishReason, Request};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What answers requests.
pub trait Worker {
    /// Queues a request; the error text becomes its line's error.
    fn submit(&mut self, request: Request) -> Result<(), String>;
    /// Whether the queue is short of work.
    fn wants_more(&self) -> bool;
    /// Runs one pass; returns what ended with it.
    fn step(&mut self) -> Result<Vec<Completion>, Box<dyn std::error::Error + Send + Sync>>;
    /// Whether nothing is queued or running.
    fn is_idle(&self) -> bool;
    /// Longest sequence, prompt and output.
    fn context_len(&self) -> usize;
    /// Work done so far.
    fn counters(&self) -> Counters;
}

/// What turns prompts into token ids.
pub trait Encode {
    /// The ids of a prompt, special tokens included; the error text becomes the line's error.
    fn encode(&self, prompt: &Prompt) -> Result<Vec<u32>, String>;
}

/// Work that a [`Worker`] has done.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counters {
    /// Passes run.
    pub passes: u64,
    /// Prompt positions computed.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Time spent on prompts.
    pub prefill: Duration,
    /// Time spent on output.
    pub decode: Duration,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Lines to answer in all, if known.
    pub total: Option<u64>,
    /// Lines answered, with errors and those of earlier runs.
    pub done: u64,
    /// Of these, lines that ended in an error.
    pub failed: u64,
    /// Of `done`, lines answered by earlier runs.
    pub resumed: u64,
    /// Work done by this run.
    pub counters: Counters,
    /// Time since the first line was read.
    pub elapsed: Duration,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Where it stood at the end.
    pub progress: Progress,
    /// Whether it was asked to stop before the end of the input.
    pub interrupted: bool,
}

/// Everything that a job is made of but the engine.
pub struct Job<'a> {
    /// The lines.
    pub input: Input,
    /// What reads them.
    pub parser: Parser,
    /// Where results go.
    pub output: Output,
    /// What turns prompts into ids.
    pub encoder: &'a dyn Encode,
    /// The model's name, for results.
    pub model: &'a str,
    /// Set from outside to end the job early.
    pub stop: &'a AtomicBool,
}

impl Job<'_> {
    /// Answers every line that the output has no answer for. When `stop` is set, finishes what is in
    /// flight and returns. `watch` is called after every pass.
    pub fn run(
        self,
        worker: &mut dyn Worker,
        watch: &mut dyn FnMut(&Progress),
    ) -> Result<Outcome, JobError> {
        let name = self.input.name().to_string();
        let mut lines = self.input.into_lines();
        let mut output = self.output;
        if !self.stop.load(Ordering::Relaxed) {
            output.begin()?;
        }
        let mut desk = Desk::new(self.parser, output, self.encoder, self.model);
        let start = Instant::now();
        let mut exhausted = false;
        loop {
            let hungry = |worker: &dyn Worker| worker.wants_more() || worker.is_idle();
            // A task in hand goes in as a whole: its choices are written when all are there.
            let goes_on =
                |desk: &Desk<'_>| desk.feeding.is_some() || !self.stop.load(Ordering::Relaxed);
            while !exhausted && goes_on(&desk) && hungry(worker) {
                if desk.feeding.is_some() {
                    desk.submit_next(worker)?;
                    continue;
                }
                let fail = |source| JobError::Input { path: name.clone(), source };
                match lines.next_line().map_err(fail)? {
                    Some(line) if line.is_blank() => {}
                    Some(line) => desk.take(&line)?,
                    None => exhausted = true,
                }
            }
            if worker.is_idle() {
                break;
            }
            desk.pass(worker)?;
            desk.progress.counters = worker.counters();
            desk.progress.elapsed = start.elapsed();
            watch(&desk.progress);
        }
        desk.progress.elapsed = start.elapsed();
        desk.output.finish(exhausted)?;
        Ok(Outcome { progress: desk.progress, interrupted: !exhausted })
    }
}

/// A task in the engine.
struct Open {
    task: Task,
    prompt_tokens: usize,
    choices: Vec<Option<Choice>>,
    missing: usize,
}

/// A task that is going into the engine, choice by choice.
struct Feeding {
    line: u64,
    prompts: Vec<Vec<u32>>,
    next: usize,
}

/// What lies between the lines and the engine: tasks begun and not yet answered.
struct Desk<'a> {
    parser: Parser,
    output: Output,
    encoder: &'a dyn Encode,
    model: &'a str,
    progress: Progress,
    open: HashMap<u64, Open>,
    /// Request id to line and choice.
    tickets: HashMap<u64, (u64, usize)>,
    next_ticket: u64,
    feeding: Option<Feeding>,
}

impl<'a> Desk<'a> {
    fn new(parser: Parser, output: Output, encoder: &'a dyn Encode, model: &'a str) -> Desk<'a> {
        let (ok, failed) = output.resumed();
        let (done, total) = (ok + failed, output.requests());
        let progress = Progress { total, done, failed, resumed: done, ..Progress::default() };
        Desk {
            parser,
            output,
            encoder,
            model,
            progress,
            open: HashMap::new(),
            tickets: HashMap::new(),
            next_ticket: 0,
            feeding: None,
        }
    }

    /// Reads a line: an answered one is skipped, a bad one answered at once.
    fn take(&mut self, line: &RawLine) -> Result<(), JobError> {
        // Answered lines are parsed too: their custom_ids count when doubles are looked for.
        let parsed = self.parser.parse(line);
        if self.output.has(line.number) {
            return self.output.tick();
        }
        let task = match parsed {
            Ok(task) => task,
            Err(error) => return self.fail(&error),
        };
        let mut prompts = Vec::with_capacity(task.prompts.len());
        for prompt in &task.prompts {
            match self.encoder.encode(prompt) {
                Ok(ids) if ids.is_empty() => {
                    let message = "the prompt has no tokens".to_string();
                    return self.fail(&task_error(&task, "empty_prompt", message));
                }
                Ok(ids) => prompts.push(ids),
                Err(message) => return self.fail(&task_error(&task, "invalid_prompt", message)),
            }
        }
        let count = prompts.len() * task.n as usize;
        let (line, prompt_tokens) = (task.line, prompts.iter().map(Vec::len).sum());
        let choices = vec![None; count];
        self.open.insert(line, Open { task, prompt_tokens, choices, missing: count });
        self.feeding = Some(Feeding { line, prompts, next: 0 });
        Ok(())
    }

    /// Gives the next choice of the task in hand to the engine.
    fn submit_next(&mut self, worker: &mut dyn Worker) -> Result<(), JobError> {
        let Some(mut feeding) = self.feeding.take() else { return Ok(()) };
        let Some(open) = self.open.get(&feeding.line) else { return Ok(()) };
        let (task, index) = (&open.task, feeding.next);
        let n = task.n as usize;
        let prompt = &feeding.prompts[index / n];
        let context_len = worker.context_len();
        if prompt.len() >= context_len {
            let message = format!(
                "the prompt has {} tokens; prompt and output together may have {context_len}",
                prompt.len()
            );
            return self.refuse(feeding.line, "context_length_exceeded", message);
        }
        let room = context_len - prompt.len();
        let request = Request {
            id: self.next_ticket,
            prompt: prompt.clone(),
            sampling: task.sampling.clone(),
            choice: (index % n) as u32,
            max_tokens: task.max_tokens.map_or(room, |count| count.min(room)),
            stop: task.stop.clone(),
            ignore_eos: task.ignore_eos,
        };
        if let Err(message) = worker.submit(request) {
            return self.refuse(feeding.line, "invalid_request", message);
        }
        self.tickets.insert(self.next_ticket, (feeding.line, index));
        self.next_ticket += 1;
        feeding.next += 1;
        if feeding.next < open.choices.len() {
            self.feeding = Some(feeding);
        }
        Ok(())
    }

    /// Runs a pass and writes what it finished.
    fn pass(&mut self, worker: &mut dyn Worker) -> Result<(), JobError> {
        let completions = match worker.step() {
            Ok(completions) => completions,
            Err(error) => {
                self.output.sync()?;
                return Err(JobError::Engine(error));
            }
        };
        for completion in completions {
            self.complete(completion)?;
        }
        self.output.tick()
    }

    fn complete(&mut self, completion: Completion) -> Result<(), JobError> {
        let Some((line, index)) = self.tickets.remove(&completion.id) else { return Ok(()) };
        // A task that was refused half-way is answered already.
        let Some(open) = self.open.get_mut(&line) else { return Ok(()) };
        let Completion { text, tokens, finish, .. } = completion;
        if finish == FinishReason::Undefined {
            let message = format!(
                "the model computed no numbers for token {}; its file may be damaged, or its values be too \
                 large for 16 bits of cache",
                tokens.len() + 1
            );
            return self.refuse(line, reply::UNDEFINED_LOGITS, message);
        }
        open.choices[index] = Some(Choice { text, tokens, finish });
        open.missing -= 1;
        if open.missing > 0 {
            return Ok(());
        }
        let Some(open) = self.open.remove(&line) else { return Ok(()) };
        let choices = open.choices.into_iter().flatten().collect();
        self.output.append(&reply::success(&open.task, self.model, open.prompt_tokens, choices))?;
        self.progress.done += 1;
        Ok(())
    }

    fn refuse(&mut self, line: u64, code: &'static str, message: String) -> Result<(), JobError> {
        match self.open.remove(&line) {
            Some(open) => self.fail(&task_error(&open.task, code, message)),
            None => Ok(()),
        }
    }

    fn fail(&mut self, error: &LineError) -> Result<(), JobError> {
        self.output.append(&reply::failure(error))?;
        self.progress.done += 1;
        self.progress.failed += 1;
        tracing::debug!("{}", error.message);
        Ok(())
    }
}

fn task_error(task: &Task, code: &'static str, message: String) -> LineError {
    let prompt = if task.endpoint == Endpoint::Chat { "messages" } else { "prompt" };
    let param = (code != reply::UNDEFINED_LOGITS).then(|| prompt.to_string());
    LineError {
        line: task.line,
        custom_id: Some(task.custom_id.clone()),
        code,
        param,
        message: format!("line {}: {message}", task.line),
    }
}
