//! Where weights, KV cache and activations live: numbers in, a policy out.

#[cfg(test)]
extern crate self as forebay_planner;

mod api;
mod candidates;
mod composer;
mod cost;
mod error;
mod finalists;
mod fit;
#[cfg(test)]
#[path = "../tests/it/fixture.rs"]
#[allow(dead_code, reason = "shared with the tests of the public interface")]
mod fixture;
pub mod flexgen;
mod footprint;
mod hardware;
mod homes;
mod inputs;
mod kind;
mod lp;
mod memory;
mod passes;
mod pipeline;
mod plan;
mod policy;
mod price;
mod resident;
mod round;
mod rows;
mod search;
mod setting;
mod shape;
mod speculation;
mod workload;

pub use api::{plan, predict};
pub use error::{Change, PlanError};
pub use footprint::{Demand, Footprint, HEAD_ROWS, LinearFootprint, Windows};
pub use hardware::{
    AttentionRate, DeviceRates, DiskRates, HardwareProfile, LinearRate, seconds_by_rows,
};
pub use inputs::{Inputs, PinnedSplit, Pins};
pub use plan::{Memory, OfBudget, Plan, Resource, Terms};
pub use policy::{Policy, Split, Tier};
pub use resident::resident_passes;
pub use shape::{LayerShape, MatrixShape, ModelShape, Part};
pub use speculation::{AHEAD, DRAFT_ROWS, Draft, Speculation};
pub use workload::{Requests, Workload};
