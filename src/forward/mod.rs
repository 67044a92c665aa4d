//! One transformer pass as kernel calls.
//! In: a model's description, its weights' handles, a number of rows. Out: lists of calls.
//! Must never know: tokens, files, tiers; which device runs the calls.

mod layer;
mod rope;
mod weights;
mod workspace;

pub use layer::{head_calls, layer_calls};
pub use rope::angles;
pub use weights::{HeadWeights, LayerWeights};
pub use workspace::Workspace;
