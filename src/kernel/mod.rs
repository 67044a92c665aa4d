//! The contract between a forward pass and a device: kernel calls and what they operate on.
//! In: nothing. Out: [`Call`], handles, the layout of cache pages and of the attention map.
//! Must never know: a device API, a model architecture, a tier.

mod call;
mod kv;
mod layout;

pub use call::{Activation, Buffer, Call, KeyBias, Matrix, Projection, RopeStyle};
pub use kv::KvFormat;
pub use layout::{AttentionRow, CacheLayout, PAGE_LEN, TREE_DEPTH_MAX, rotation_block};
