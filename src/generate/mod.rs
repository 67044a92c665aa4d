//! The one loop over tokens: which sequences take part in a pass, and what becomes of its logits.
//! In: [`Request`]s. Out: [`Completion`]s.
//! Must never know: files, text formats, device APIs.

mod request;

pub use request::{Completion, FinishReason, Request};
