//! One transformer pass as kernel calls.
//! In: a model's description, its weights' handles, a number of rows. Out: lists of calls.
//! Must never know: tokens, files, tiers; which device runs the calls.

mod attend;
mod layer;
mod rope;
mod weights;
mod workspace;

pub use attend::{AttendSpace, Operands, attend_calls};
pub use layer::{Turn, gather_call, head_call, head_norm_call, layer_calls};
pub use rope::{angles, turns};
pub use weights::{BoundHead, BoundLayer, HeadWeights, LayerWeights, Slabs};
pub use workspace::{CacheView, MicroBatch, Workspace, WorkspaceSize};
