//! Text to token ids and back, and chat templates.
//! In: a [`TokenizerSource`] found in a model's files, text. Out: ids, text.
//! Must never know: model weights, devices, files.

mod source;

pub use source::{GgufVocab, TokenizerSource};
