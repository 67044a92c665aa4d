//! Devices that run kernel calls.
//! In: matrices in file order, buffers, [`Call`](crate::kernel::Call)s. Out: buffers' contents.
//! Must never know: layers, tiers, tokens, files. The implementations never import each other.

pub mod cpu;
mod device;
pub mod gpu;
pub mod reference;

pub use device::{CopyPart, Device, DeviceError, DeviceInfo, DeviceKind, Fetch, MemoryUse};
