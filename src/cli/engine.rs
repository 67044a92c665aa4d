//! A model, and an engine behind the traits that jobs know.

use super::exit::CliError;
use crate::generate::{Completion, Engine, Request};
use crate::job::{Counters, Encode, Prompt, Worker};
use crate::model::ModelSpec;
use crate::store::{ModelFiles, checksum};
use crate::tokenizer::{ChatMessage, Special, Tokenizer, TokenizerSource};
use anyhow::Context;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

/// Longest sequence where nothing else is said; the cache for it must fit small machines too.
const CONTEXT_LEN_MAX: usize = 8192;

/// An opened model.
pub(super) struct Model {
    /// Its files.
    pub(super) files: Arc<ModelFiles>,
    /// Its tokenizer.
    pub(super) tokenizer: Tokenizer,
    /// Checksum of tokenizer files that are beside the model's own, which have one that covers theirs.
    pub(super) tokenizer_checksum: Option<String>,
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
        let tokenizer_checksum = checksum_of(&source);
        Ok(Model { files: Arc::new(files), tokenizer, tokenizer_checksum, name })
    }
}

fn checksum_of(source: &TokenizerSource) -> Option<String> {
    let TokenizerSource::HuggingFace { tokenizer_json, config, eos_ids, chat_template } = source
    else {
        return None;
    };
    let rest = format!("{config:?} {eos_ids:?} {chat_template:?}");
    Some(format!("{:016x}{:016x}", checksum(tokenizer_json), checksum(rest.as_bytes())))
}

/// The reference itself if it is `org/repo`, else the name of the file or folder.
fn model_name(reference: &str, path: &Path) -> String {
    if !Path::new(reference).exists() {
        return reference.to_string();
    }
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    name.map_or_else(|| reference.to_string(), |name| name.to_string_lossy().into_owned())
}

/// Longest sequence: what was asked for, else the model's own up to a bound. Of all sizes only this one
/// can change an answer, so it does not depend on the memory that happens to be free.
pub(super) fn context_len(spec: &ModelSpec, asked: Option<usize>) -> Result<usize, CliError> {
    match asked {
        Some(asked) if asked > spec.context_len => Err(CliError::Usage(format!(
            "--max-model-len {asked}: the model was made for {} positions at most",
            spec.context_len
        ))),
        asked => Ok(asked.unwrap_or(spec.context_len.min(CONTEXT_LEN_MAX))),
    }
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
