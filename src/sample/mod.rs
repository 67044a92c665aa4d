//! Logits to a token.
//! In: logits, sampling parameters, a position, the tokens so far. Out: a token id.
//! Must never know: models, devices, text.

mod params;

pub use params::SamplingParams;
