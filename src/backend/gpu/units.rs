//! Whether a GPU's matrix units do what they are asked: they are used where they give the bits of the kernels
//! without them, and are faster. No driver is trusted with an experimental feature.

use super::device::GpuDevice;
use super::kernels::Units;
use crate::backend::{Device, DeviceError};
use crate::kernel::{Buffer, Call, Projection};
use crate::quant::{DType, quantize_row};
use std::time::{Duration, Instant};

/// Sizes that are compared: several tiles and segments, and parts of both.
const COMPARED: [usize; 3] = [150, 80, 768];
/// Sizes that are timed, of the most usual weights.
const TIMED: [usize; 3] = [512, 2048, 2048];
const TIMES: usize = 3;

/// Matrix units, if they are right and faster.
pub(super) fn better(device: &mut GpuDevice) -> Result<Option<Units>, DeviceError> {
    let units = Some(Units::Matrix);
    for dtype in DType::ALL.into_iter().filter(|dtype| !dtype.is_float()) {
        let layer = Layer::new(device, dtype, COMPARED)?;
        let [plain, found] = [None, units].map(|units| layer.run(device, units));
        let (plain, found) = (plain?, found?);
        layer.free(device);
        if plain != found {
            tracing::warn!("{}: its matrix units are wrong, and not used", device.info().name);
            return Ok(None);
        }
    }
    let layer = Layer::new(device, DType::Q4K, TIMED)?;
    let [plain, found] = [None, units].map(|units| layer.time(device, units));
    layer.free(device);
    let (plain, found) = (plain?, found?);
    tracing::debug!("512 rows: {plain:?}, with matrix units {found:?}");
    Ok(units.filter(|_| found < plain))
}

/// A linear layer of pseudo-random weights over pseudo-random rows.
struct Layer {
    rows: usize,
    outs: usize,
    cols: usize,
    weight: crate::kernel::Matrix,
    x: Buffer,
    out: Buffer,
}

/// So many numbers between -1 and 1.
fn noise(count: usize, state: &mut u32) -> Vec<f32> {
    let next = || {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

impl Layer {
    fn new(
        device: &mut GpuDevice,
        dtype: DType,
        [rows, outs, cols]: [usize; 3],
    ) -> Result<Layer, DeviceError> {
        let (what, mut state, mut bytes) = ("test of matrix units", 7, Vec::new());
        (0..outs).for_each(|_| quantize_row(dtype, &noise(cols, &mut state), &mut bytes));
        let weight = device.load(dtype, outs, cols, &bytes, what)?;
        let x = device.alloc(rows * cols * size_of::<f32>(), what)?;
        device.write(x, 0, bytemuck::cast_slice(&noise(rows * cols, &mut state)))?;
        let out = device.alloc(rows * outs * size_of::<f32>(), what)?;
        Ok(Layer { rows, outs, cols, weight, x, out })
    }

    /// The bits of the outputs.
    fn run(&self, device: &mut GpuDevice, units: Option<Units>) -> Result<Vec<u32>, DeviceError> {
        device.multiply_with(units);
        let projections = [Projection::whole(self.weight, None, self.out)].into();
        let Layer { x, rows, cols, .. } = *self;
        device.run(&[Call::Linear { x, rows, cols, projections }])?;
        let mut bits = vec![0; rows * self.outs];
        device.read(self.out, 0, bytemuck::cast_slice_mut(&mut bits))?;
        Ok(bits)
    }

    /// The least time of some runs, after one that compiles.
    fn time(&self, device: &mut GpuDevice, units: Option<Units>) -> Result<Duration, DeviceError> {
        self.run(device, units)?;
        let mut least = Duration::MAX;
        for _ in 0..TIMES {
            let start = Instant::now();
            self.run(device, units)?;
            least = least.min(start.elapsed());
        }
        Ok(least)
    }

    fn free(self, device: &mut GpuDevice) {
        device.unload(self.weight);
        device.free(self.x);
        device.free(self.out);
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernels::Family;
    use super::super::prepared::open;
    use super::*;

    /// What is around the units gives the bits of the kernels without them.
    #[test]
    fn loops_in_place_of_matrix_units_give_the_same_bits() {
        let Some(mut device) = open(Family::Tiles, None) else { return };
        for dtype in DType::ALL.into_iter().filter(|dtype| !dtype.is_float()) {
            let layer = Layer::new(&mut device, dtype, COMPARED).unwrap();
            let plain = layer.run(&mut device, None).unwrap();
            let found = layer.run(&mut device, Some(Units::Loops)).unwrap();
            layer.free(&mut device);
            assert!(plain.iter().any(|&bits| f32::from_bits(bits).abs() > 0.1));
            let differing = plain.iter().zip(&found).filter(|(a, b)| a != b).count();
            assert_eq!(differing, 0, "{dtype}");
        }
    }
}
