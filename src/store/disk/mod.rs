//! Files read and written past the page cache, at a bounded rate, with faults on demand in tests.

mod aligned;
mod direct;
mod raw;
mod space;
mod spill;
mod throttle;

pub use aligned::AlignedBuffer;
pub use direct::DirectFile;
pub(super) use raw::pwrite;
pub use raw::{forget, set_direct};
pub use space::free_bytes;
pub use spill::SpillFile;
pub use throttle::Throttle;

#[cfg(test)]
mod tests;

pub(super) use space::{allocated, reserve};

use super::faults::Faults;
use std::sync::Arc;

/// What stands between a file and its disk: nothing, unless a job is throttled or a test injects
/// faults.
#[derive(Clone, Debug, Default)]
pub struct IoControl {
    /// Bounds the rate; shared by all files of a tier.
    pub throttle: Option<Arc<Throttle>>,
    /// Faults of this file; for tests.
    pub faults: Option<Arc<Faults>>,
    /// Whether transfers go through the page cache, which is told to drop them, also where they need
    /// not: some machines read faster that way.
    pub buffered: bool,
}

impl IoControl {
    /// Runs `io`, which moves `bytes`, no faster than the throttle allows.
    pub(super) fn pace<T>(&self, bytes: usize, io: impl FnOnce() -> T) -> T {
        match &self.throttle {
            Some(throttle) => throttle.pace(bytes as u64, io),
            None => io(),
        }
    }
}
