//! Text to token ids and back, and chat templates.
//! In: a [`TokenizerSource`] found in a model's files, text. Out: ids, text.
//! Must never know: model weights, devices, files.

mod bpe;
mod chat;
mod codec;
mod decode;
mod error;
mod gguf;
mod huggingface;
mod pre;
mod source;
mod special;
mod spm;
mod template;
#[cfg(test)]
mod tests;
mod vocab;

pub use bpe::BYTE_CHARS;
pub use chat::ChatMessage;
pub use codec::{Special, Tokenizer};
pub use decode::Decoder;
pub use error::TokenizerError;
pub use source::{GgufVocab, TokenizerSource};
