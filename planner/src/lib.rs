//! Where weights, KV cache and activations live: numbers in, a policy out.
//!
//! No I/O, no threads, no GPU types. These are the planner's inputs and output; the linear program
//! that fills a [`Policy`] in builds on `good_lp`.

mod hardware;
mod policy;
mod shape;
mod workload;

pub use hardware::{AttentionRate, DeviceRates, DiskRates, HardwareProfile, LinearRate};
pub use policy::{Policy, Split, Tier};
pub use shape::{LayerShape, ModelShape};
pub use workload::Workload;
