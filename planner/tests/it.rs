//! The planner through its public interface.

#[path = "it/fixture.rs"]
mod fixture;
#[path = "it/laws.rs"]
mod laws;
#[path = "it/limits.rs"]
mod limits;
#[path = "it/plans.rs"]
mod plans;
