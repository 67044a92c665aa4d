//! Logits to a token.
//! In: logits, sampling parameters, a position, the tokens so far. Out: a token id.
//! Must never know: models, devices, text.

mod history;
mod noise;
mod params;
mod rows;
mod sampler;
mod scores;

pub use history::History;
pub use noise::NoiseKey;
pub use params::SamplingParams;
pub use rows::{for_rows, limit_threads, sampling_bytes};
pub use sampler::Sampler;
pub use scores::draft_scores;
