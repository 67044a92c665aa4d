//! The scalar device: every kernel in its plainest form, no SIMD, no threads, no rounding of activations.
//! In and out: as every device. It is what the fast devices are compared with, line by line.
//! Must never become fast.

mod attention;
mod device;
mod elementwise;
mod linear;

pub use device::ReferenceDevice;
