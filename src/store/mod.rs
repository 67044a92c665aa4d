//! Where bytes live off the device: model files, found, checked and read.
//! In: a path or `org/repo`. Out: [`ModelFiles`], a network's description and its tensors' bytes; packed
//! weights by segments ([`WeightSource`]) and room for spilled keys and values ([`SpillFile`]).
//! Must never know: devices, schedules, what a tensor is multiplied with.

mod checksum;
mod disk;
mod error;
pub mod faults;
mod files;
mod fingerprint;
pub mod gguf;
mod hparams_gguf;
mod hugging_face;
mod open_gguf;
mod output;
mod packed;
mod parts;
mod reference;
mod source;
mod tokenizer_gguf;
mod weights;

pub use checksum::checksum;
pub use disk::{
    AlignedBuffer, DirectFile, IoControl, SpillFile, Throttle, forget, free_bytes, set_direct,
};
pub use error::StoreError;
pub use files::{ModelFiles, TensorInfo, TensorListing};
pub use hugging_face::config_hparams;
pub use output::FileSink;
pub use packed::{CacheOptions, PackedCache};
pub use source::{FileIdentity, FileSource, MemorySource, Source};
pub use weights::{FileWeights, WeightSource};

#[cfg(test)]
mod refusals;
#[cfg(test)]
mod tests;
