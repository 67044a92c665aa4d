//! A model on a device, sized by memory, behind the traits that jobs know.

use super::args::EngineArgs;
use super::device::is_in_ram;
use super::exit::CliError;
use super::memory;
use crate::backend::{Device, DeviceInfo};
use crate::exec::{Executor, ExecutorConfig};
use crate::generate::{Completion, Engine, EngineConfig, Request};
use crate::job::{Counters, Encode, Prompt, Worker};
use crate::kernel::PAGE_LEN;
use crate::model::ModelSpec;
use crate::store::ModelFiles;
use crate::tokenizer::{ChatMessage, Special, Tokenizer};
use anyhow::Context;
use bytesize::ByteSize;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

/// Longest sequence where nothing else is said; the cache for it must fit small machines too.
const CONTEXT_LEN_MAX: usize = 8192;
/// Sequences computed at once where nothing else is said: on processors, and on real GPUs.
const BATCH_CPU: usize = 32;
const BATCH_GPU: usize = 128;
/// Cache positions that an average sequence is given; a longer one takes those of others.
const POSITIONS_PER_SEQUENCE: usize = 1024;

/// An opened model.
pub(super) struct Model {
    /// Its files.
    pub(super) files: Arc<ModelFiles>,
    /// Its tokenizer.
    pub(super) tokenizer: Tokenizer,
    /// Its name in results: that of the file or folder.
    pub(super) name: String,
}

impl Model {
    /// Opens what `-m` names.
    pub(super) fn open(reference: &str) -> anyhow::Result<Model> {
        let files = ModelFiles::open(reference)?;
        let source = files.tokenizer_source()?;
        let tokenizer = Tokenizer::new(&source)
            .with_context(|| format!("{}: the tokenizer", files.path().display()))?;
        let name = model_name(reference, files.path());
        Ok(Model { files: Arc::new(files), tokenizer, name })
    }
}

/// The reference itself if it is `org/repo`, else the name of the file or folder.
fn model_name(reference: &str, path: &Path) -> String {
    if !Path::new(reference).exists() {
        return reference.to_string();
    }
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    name.map_or_else(|| reference.to_string(), |name| name.to_string_lossy().into_owned())
}

/// Sizes of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Limits of the engine.
    pub(super) engine: EngineConfig,
    /// Pages of the cache.
    pub(super) pages: usize,
}

impl Sizes {
    /// Sizes for a model on a device. Of these only `context_len` can change an answer, and it does
    /// not depend on the memory that happens to be free.
    pub(super) fn choose(
        files: &ModelFiles,
        device: &DeviceInfo,
        args: &EngineArgs,
    ) -> Result<Sizes, CliError> {
        let spec = files.spec();
        if let Some(asked) = args.max_model_len.filter(|&asked| asked > spec.context_len) {
            let own = spec.context_len;
            return Err(CliError::Usage(format!(
                "--max-model-len {asked}: the model was made for {own} positions at most"
            )));
        }
        let context_len = args.max_model_len.unwrap_or(spec.context_len.min(CONTEXT_LEN_MAX));
        let in_ram = is_in_ram(device.kind);
        let budget_bytes = if in_ram { cache_budget(files)? } else { u64::MAX };
        let page_bytes = page_bytes(spec);
        let layer_bytes_max = spec.layers.iter().map(|l| l.cache().page_bytes()).max().unwrap_or(1);
        let by_buffer = device.buffer_bytes_max / layer_bytes_max as u64;
        let affordable = (budget_bytes / page_bytes).min(by_buffer);
        let needed = context_len.div_ceil(PAGE_LEN);
        if (needed as u64) > affordable {
            let fits = affordable as usize * PAGE_LEN;
            return Err(CliError::DoesNotFit {
                what: format!("the KV cache of one sequence of {context_len} tokens"),
                need_bytes: needed as u64 * page_bytes,
                have_bytes: affordable * page_bytes,
                remedy: format!("--max-model-len {fits} would fit"),
            });
        }
        let batch = args.batch.unwrap_or(if in_ram { BATCH_CPU } else { BATCH_GPU });
        let wanted = batch.saturating_mul(POSITIONS_PER_SEQUENCE.min(context_len) / PAGE_LEN + 1);
        let pages = wanted.clamp(needed, affordable.min(u32::MAX.into()) as usize);
        let engine = EngineConfig { batch, prefill_chunk: args.prefill_chunk, context_len };
        Ok(Sizes { engine, pages })
    }
}

/// Bytes of memory that the cache may take beside the weights: half of what they leave.
fn cache_budget(files: &ModelFiles) -> Result<u64, CliError> {
    let Some(available) = memory::available_bytes() else { return Ok(u64::MAX) };
    let weights = files.total_bytes();
    if weights > available {
        return Err(CliError::DoesNotFit {
            what: "the model".to_string(),
            need_bytes: weights,
            have_bytes: available,
            remedy: "a smaller model or a stronger quantization of it would fit".to_string(),
        });
    }
    Ok((available - weights) / 2)
}

fn page_bytes(spec: &ModelSpec) -> u64 {
    spec.layers.iter().map(|layer| layer.cache().page_bytes() as u64).sum::<u64>().max(1)
}

/// Loads the model onto the device.
pub(super) fn load(
    model: &Model,
    device: Box<dyn Device>,
    config: ExecutorConfig,
    note: &mut dyn FnMut(String),
) -> anyhow::Result<Executor> {
    let bytes = ByteSize(model.files.total_bytes()).display().iec().to_string();
    let mut progress = |done: usize, parts: usize| {
        note(format!("loading {} ({bytes}): {done}/{parts}", model.name));
    };
    Ok(Executor::new(device, Arc::clone(&model.files), config, &mut progress)?)
}

impl Worker for Engine<'_> {
    fn submit(&mut self, request: Request) -> Result<(), String> {
        Engine::submit(self, request).map_err(|error| error.to_string())
    }

    fn wants_more(&self) -> bool {
        Engine::wants_more(self)
    }

    fn step(&mut self) -> Result<Vec<Completion>, Box<dyn Error + Send + Sync>> {
        Ok(Engine::step(self)?)
    }

    fn is_idle(&self) -> bool {
        Engine::is_idle(self)
    }

    fn context_len(&self) -> usize {
        Engine::context_len(self)
    }

    fn counters(&self) -> Counters {
        let stats = self.stats();
        Counters {
            passes: stats.passes,
            prompt_tokens: stats.prompt_tokens,
            generated_tokens: stats.generated_tokens,
            prefill: stats.prefill,
            decode: stats.decode,
        }
    }
}

impl Encode for Tokenizer {
    fn encode(&self, prompt: &Prompt) -> Result<Vec<u32>, String> {
        let ids = match prompt {
            Prompt::Tokens(ids) => return Ok(ids.clone()),
            Prompt::Text(text) => Tokenizer::encode(self, text, Special::Parse),
            Prompt::Chat(messages) => {
                let messages: Vec<ChatMessage> = messages
                    .iter()
                    .map(|m| ChatMessage { role: m.role.clone(), content: m.content.clone() })
                    .collect();
                self.encode_chat(&messages)
            }
        };
        ids.map_err(|error| error.to_string())
    }
}
