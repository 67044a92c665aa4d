//! Where bytes live off the device: model files, found, checked and read.
//! In: a path or `org/repo`. Out: [`ModelFiles`], a network's description and its tensors' bytes.
//! Must never know: devices, schedules, what a tensor is multiplied with.

mod error;
mod files;
mod fingerprint;
pub mod gguf;
mod hparams_gguf;
mod hugging_face;
mod open_gguf;
mod output;
mod parts;
mod reference;
mod source;
mod tokenizer_gguf;

pub use error::StoreError;
pub use files::{ModelFiles, TensorInfo, TensorListing};
pub use hugging_face::config_hparams;
pub use output::{FileSink, free_bytes};
pub use source::{FileSource, MemorySource, Source};

#[cfg(test)]
mod refusals;
#[cfg(test)]
mod tests;
