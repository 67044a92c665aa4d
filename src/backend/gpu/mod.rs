//! The wgpu device: Vulkan, Metal, DX12.
//! In: what every device takes. Out: buffers' contents, and the list of adapters for users.
//! Must never know: layers, tiers, tokens, the other devices.

mod adapter;
mod builder;
mod call;
mod context;
mod device;
mod kept;
mod kernels;
mod linear;
mod memory;
mod params;
mod pipelines;
#[cfg(test)]
mod prepared;
#[cfg(test)]
mod shaders_valid;
mod transfer;
mod units;
mod vram;

pub use adapter::{AdapterSummary, Selector, adapters};
pub use device::{GpuDevice, Options};
pub use kept::KernelStore;
pub use kernels::{Family, Units};
