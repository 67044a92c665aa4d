//! A deterministic engine without a model, and a job around it.

use super::super::*;
use crate::generate::{Completion, FinishReason, Request};
use serde_json::Value;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// Answers with a hash of all that an answer may depend on.
#[derive(Default)]
pub(super) struct FakeWorker {
    queue: VecDeque<Request>,
    passes: u64,
    /// Fail at this pass.
    pub(super) fail_at: Option<u64>,
    /// Compute nothing at this pass.
    pub(super) undefined_at: Option<u64>,
}

impl Worker for FakeWorker {
    fn submit(&mut self, request: Request) -> Result<(), String> {
        assert!(!request.prompt.is_empty() && request.max_tokens > 0);
        self.queue.push_back(request);
        Ok(())
    }

    fn wants_more(&self) -> bool {
        self.queue.len() < 3
    }

    fn step(&mut self) -> Result<Vec<Completion>, Box<dyn std::error::Error + Send + Sync>> {
        self.passes += 1;
        if self.fail_at == Some(self.passes) {
            return Err("the fake device is gone".into());
        }
        // Newest first, so that results come out of order.
        let request = self.queue.pop_back().ok_or("no work")?;
        let key = format!("{:?} {:?} {}", request.prompt, request.sampling, request.choice);
        let sum = key.bytes().fold(7u64, |sum, byte| sum.wrapping_mul(31) + u64::from(byte));
        let tokens = vec![(sum % 97) as u32; request.max_tokens.min(2)];
        let text = format!("{sum:x}");
        let (id, choice) = (request.id, request.choice);
        let undefined = self.undefined_at == Some(self.passes);
        let finish = if undefined { FinishReason::Undefined } else { FinishReason::Length };
        Ok(vec![Completion { id, choice, tokens, text, finish }])
    }

    fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    fn context_len(&self) -> usize {
        64
    }

    fn counters(&self) -> Counters {
        Counters { passes: self.passes, ..Counters::default() }
    }
}

/// A token per byte.
pub(super) struct FakeEncoder;

impl Encode for FakeEncoder {
    fn encode(&self, prompt: &Prompt) -> Result<Vec<u32>, String> {
        match prompt {
            Prompt::Text(text) => Ok(text.bytes().map(u32::from).collect()),
            Prompt::Tokens(ids) => Ok(ids.clone()),
            Prompt::Chat(messages) => {
                let text = messages.iter().map(|message| message.content.as_str());
                Ok(text.collect::<String>().bytes().chain([1]).map(u32::from).collect())
            }
        }
    }
}

/// A folder with an input and an output.
pub(super) struct Folder {
    _dir: tempfile::TempDir,
    pub(super) input: PathBuf,
    pub(super) output: PathBuf,
    pub(super) manifest: Manifest,
}

impl Folder {
    pub(super) fn new(lines: &[u8]) -> Folder {
        let dir = tempfile::tempdir().unwrap();
        let (input, output) = (dir.path().join("in.jsonl"), dir.path().join("out.jsonl"));
        std::fs::write(&input, lines).unwrap();
        let mut manifest = Manifest::default();
        manifest.depends_on("seed", 3);
        Folder { _dir: dir, input, output, manifest }
    }

    pub(super) fn open(&self, options: OutputOptions) -> Result<(Input, Output), JobError> {
        let input = Input::open(self.input.to_str().unwrap(), InputFormat::Auto)?;
        let output = Output::open(self.output.to_str().unwrap(), &input, &self.manifest, options)?;
        Ok((input, output))
    }

    pub(super) fn run_with(
        &self,
        worker: &mut FakeWorker,
        options: OutputOptions,
    ) -> Result<Outcome, JobError> {
        self.run_until(u64::MAX, worker, options)
    }

    /// Asks to stop after so many passes.
    pub(super) fn run_until(
        &self,
        passes: u64,
        worker: &mut FakeWorker,
        options: OutputOptions,
    ) -> Result<Outcome, JobError> {
        let (input, output) = self.open(options)?;
        let parser = Parser::new(config(input.format()));
        let stop = AtomicBool::new(passes == 0);
        let encoder = &FakeEncoder;
        let job = Job { input, parser, output, encoder, model: "fake", stop: &stop };
        job.run(worker, &mut |progress| {
            stop.store(progress.counters.passes >= passes, Ordering::Relaxed);
        })
    }

    pub(super) fn run(&self) -> Result<Outcome, JobError> {
        self.run_with(&mut FakeWorker::default(), OutputOptions::default())
    }

    /// The output's lines without their time.
    pub(super) fn results(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.output).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        text.lines()
            .map(|line| {
                let mut value: Value = serde_json::from_str(line).unwrap();
                if let Some(created) = value.pointer_mut("/response/body/created") {
                    *created = Value::Null;
                }
                value
            })
            .collect()
    }

    /// [`Folder::results`] by id.
    pub(super) fn sorted(&self) -> Vec<Value> {
        let mut results = self.results();
        results.sort_by_key(|value| value["id"].to_string());
        results
    }
}

pub(super) fn config(format: InputFormat) -> ParseConfig {
    ParseConfig {
        format,
        defaults: Defaults::default(),
        vocab: 1000,
        model_names: vec!["fake".to_string()],
    }
}
