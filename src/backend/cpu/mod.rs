//! The CPU, native kernels: AVX-512 VNNI, AVX-VNNI, AVX2, NEON or portable, chosen at run time.
//! In: matrices in file order, kernel calls. Out: buffers' contents, the same bits on every path.
//! Must never know: the other devices, layers, tiers, tokens, files.

mod activations;
mod attention;
mod attention_places;
mod attention_rows;
mod attention_tile;
mod attention_widen;
mod device;
mod elementwise;
mod expand;
mod floats;
mod linear;
mod math;
mod memory;
mod plan;
mod products;
mod simd;
#[cfg(target_arch = "x86_64")]
mod simd_avx2;
#[cfg(target_arch = "x86_64")]
mod simd_avx512;
#[cfg(target_arch = "aarch64")]
mod simd_neon;
mod simd_portable;
mod span;
mod team;
#[cfg(test)]
mod tests;

pub use device::CpuDevice;
pub use simd::SimdPath;
