//! Draft trees: how they grow, how one is followed, and how large they should be.
//! In: tokens and a draft's scores, what was accepted, seconds by size. Out: [`Tree`]s, accepted
//! paths, rows of a cache to move, sizes.
//! Must never know: models, devices, tokenizers, how the target chooses a token.

mod choose;
mod forest;
mod gain;
mod lookup;
mod sequoia;
mod sharpness;
mod tree;
mod walk;

#[cfg(test)]
mod tests;

pub use choose::{best_size, node_log_ps, trim_to_best};
pub use forest::{Expand, Forest, GrowthLimits};
pub use gain::GainCurve;
pub use lookup::{LOOKUP_BYTES, Lookup, LookupTrust};
pub use sequoia::{
    PUBLISHED_ACCEPTANCE, ShapeChoice, StaticTree, choose_shape, greedy_tree, optimal_tree,
};
pub use sharpness::Sharpness;
pub use tree::{Node, Tree};
pub use walk::{Walk, commit_moves};
