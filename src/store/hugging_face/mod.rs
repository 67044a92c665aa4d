//! Hugging Face folders: config.json, safetensors files, tokenizer files.
//! In: a folder. Out: the same [`super::files::Opened`] as for a GGUF model.
//! Nothing here writes, and nothing here reaches a network.

mod config;
mod open;
mod tokenizer;
mod weights;

pub use config::config_hparams;
pub(super) use open::open;
pub(super) use tokenizer::tokenizer;
