//! The planner through its public interface.

#[allow(dead_code, reason = "shared with the other tests")]
#[path = "it/fixture.rs"]
mod fixture;
#[path = "it/laws.rs"]
mod laws;
#[path = "it/limits.rs"]
mod limits;
#[path = "it/plans.rs"]
mod plans;
#[path = "it/trees.rs"]
mod trees;
