//! Every call on every path: against the reference device, and bit by bit against each other.

mod attention;
mod linear;
mod simple;

use super::{CpuDevice, SimdPath};
use crate::backend::Device;
use crate::kernel::Buffer;

/// Reproducible values.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    fn below(&mut self, bound: usize) -> usize {
        self.next() as usize % bound
    }

    /// Mostly small, some large, in both directions.
    fn value(&mut self) -> f32 {
        let v = self.next() as f32 / (1u64 << 30) as f32 - 1.0;
        if self.below(50) == 0 { v * 8.0 } else { v }
    }

    fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.value()).collect()
    }
}

fn paths() -> impl Iterator<Item = SimdPath> {
    SimdPath::ALL.into_iter().filter(|path| path.is_available())
}

/// A device per path, alone and with three threads.
fn devices() -> Vec<(String, CpuDevice)> {
    let with = |path: SimdPath, threads: usize| {
        let device = CpuDevice::with_path(Some(threads), path).unwrap();
        (format!("{path}, {threads} threads"), device)
    };
    paths().flat_map(|path| [with(path, 1), with(path, 3)]).collect()
}

fn put<T: bytemuck::NoUninit>(device: &mut dyn Device, values: &[T]) -> Buffer {
    let bytes: &[u8] = bytemuck::cast_slice(values);
    let buffer = device.alloc(bytes.len().max(4), "test").unwrap();
    device.write(buffer, 0, bytes).unwrap();
    buffer
}

fn take<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(
    device: &mut dyn Device,
    buffer: Buffer,
    count: usize,
) -> Vec<T> {
    let mut bytes = vec![0u8; count * size_of::<T>()];
    device.read(buffer, 0, &mut bytes).unwrap();
    bytemuck::pod_collect_to_vec(&bytes)
}

/// Mean squared error relative to the mean square of `want`.
fn nmse(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |v: f32| f64::from(v) * f64::from(v);
    let error: f64 = got.iter().zip(want).map(|(&g, &w)| square(g - w)).sum();
    let power: f64 = want.iter().map(|&w| square(w)).sum();
    if power == 0.0 { error } else { error / power }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn an_impossible_allocation_is_an_error() {
    let mut device = CpuDevice::new(Some(1)).unwrap();
    let error = device.alloc(1 << 60, "a cache").unwrap_err().to_string();
    assert!(error.contains("a cache") && error.contains("1152921504606846976"), "{error}");
    assert!(device.alloc(usize::MAX, "a cache").is_err());
    let before = device.memory().bytes;
    let buffer = device.alloc(100, "small").unwrap();
    assert_eq!(device.memory().bytes, before + 100);
    device.free(buffer);
    assert_eq!(device.memory().bytes, before);
}
