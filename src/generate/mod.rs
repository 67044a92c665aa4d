//! The one loop over tokens: which sequences take part in a pass, and what becomes of its logits.
//! In: [`Request`]s. Out: [`Completion`]s; or, for scoring, a perplexity.
//! Must never know: files, text formats, device APIs.

mod engine;
mod perplexity;
mod request;
mod sequence;
mod stop;

pub use engine::{Engine, EngineConfig, EngineError, EngineStats, Suspended};
pub use perplexity::{Perplexity, perplexity};
pub use request::{Completion, FinishReason, Request};
