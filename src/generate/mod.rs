//! The one loop over tokens: which sequences take part in a pass, and what becomes of its logits.
//! In: [`Request`]s. Out: [`Completion`]s; or, for scoring, a perplexity.
//! Must never know: files, text formats, device APIs.

mod draft_cache;
mod draft_layers;
mod draft_lookup;
mod draft_model;
mod draft_passes;
mod drafter;
mod engine;
mod engine_pass;
mod follow;
mod learned;
mod pace;
mod perplexity;
mod request;
mod sequence;
mod speculation;
mod stop;

pub use draft_lookup::DraftLookup;
pub use draft_model::DraftModel;
pub use drafter::{
    DraftError, DraftWork, Draftable, Drafter, Followed, Growth, GrowthPlan, Target,
};
pub use engine::{Engine, EngineConfig, EngineError, EngineStats, Suspended};
pub use learned::DraftLearned;
pub use perplexity::{Perplexity, perplexity};
pub use request::{Completion, FinishReason, Request};
pub use speculation::{
    Speculation, SpeculationConfig, SpeculationStats, TREE_NODES_MAX, TreeShape,
};
