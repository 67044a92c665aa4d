//! Measures what this machine can do, for the planner.
//! In: a device, a folder (or a file) on the disk that weights are streamed from. Out: a [`Calibration`]: a
//! `HardwareProfile` and the figures behind it.
//! Must never know: a model's files, jobs, plans.

mod attention;
mod calibrate;
mod disk;
mod effort;
mod elementwise;
mod error;
#[cfg(test)]
mod fake;
mod file;
mod fixed;
mod host;
mod layer;
mod linear;
mod memory;
mod meter;
mod rates;
mod samples;
mod steadiness;

pub use calibrate::{Calibration, Settings, calibrate, shares_ram};
pub use disk::{DiskPlace, FILE_MIN, ReadRate};
pub use effort::Effort;
pub use error::ProfileError;
pub use memory::{Path, TransferRate};
pub use meter::Clock;
