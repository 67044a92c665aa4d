//! The planner through its public interface.

#[path = "it/fixture.rs"]
mod fixture;
#[path = "it/sizes.rs"]
mod sizes;
