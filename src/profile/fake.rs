//! A device that computes nothing and takes the time it is told to, on a clock of its own: for tests.

use crate::backend::{Device, DeviceError, DeviceInfo, DeviceKind, MemoryUse};
use crate::kernel::{Buffer, Call, Matrix};
use crate::quant::DType;
use std::cell::Cell;

thread_local! {
    static NOW: Cell<f64> = const { Cell::new(0.0) };
}

/// Seconds of this thread's fake clock.
pub(super) fn fake_now() -> f64 {
    NOW.get()
}

/// Lets `seconds` of it pass.
pub(super) fn pass_time(seconds: f64) {
    NOW.set(NOW.get() + seconds);
}

/// Everything takes `slowness` times what its constants say, as if other programs had come between.
pub(super) struct FakeDevice {
    pub(super) slowness: f64,
    /// Seconds of a linear layer per weight, by number of rows.
    pub(super) linear: fn(usize) -> f64,
    /// How often [`Device::run`] was called, and calls in all.
    pub(super) ran: [usize; 2],
    pub(super) info: DeviceInfo,
    pub(super) made: u32,
}

impl FakeDevice {
    pub(super) const WAIT: f64 = 1e-6;
    pub(super) const RUN: f64 = 5e-6;
    pub(super) const CALL: f64 = 2e-6;
    /// Seconds of anything but linear layers per number.
    pub(super) const NUMBER: f64 = 1e-9;

    fn spend(&self, seconds: f64) {
        pass_time(self.slowness * seconds);
    }

    fn seconds(&self, call: &Call) -> f64 {
        match call {
            Call::Linear { rows, projections, .. } => {
                let weights = projections.iter().map(|p| p.weight.rows * p.weight.cols);
                weights.sum::<usize>() as f64 * (self.linear)(*rows)
            }
            Call::Attention { rows, heads, layout, .. } => {
                (rows * heads * layout.head_dim) as f64 * FakeDevice::NUMBER
            }
            Call::Add { count, .. } | Call::Gate { count, .. } => {
                *count as f64 * FakeDevice::NUMBER
            }
            _ => 0.0,
        }
    }
}

impl Default for FakeDevice {
    fn default() -> FakeDevice {
        let info = DeviceInfo {
            name: "fake".to_string(),
            kind: DeviceKind::Cpu,
            driver: String::new(),
            buffer_bytes_max: u64::MAX,
            memory_bytes: None,
        };
        let linear = |rows: usize| rows.max(4) as f64 * 1e-11;
        FakeDevice { slowness: 1.0, linear, ran: [0; 2], info, made: 0 }
    }
}

impl Device for FakeDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&mut self, _: usize, _: &str) -> Result<Buffer, DeviceError> {
        self.made += 1;
        Ok(Buffer(self.made))
    }

    fn free(&mut self, _: Buffer) {}

    fn load(
        &mut self,
        dtype: DType,
        rows: usize,
        cols: usize,
        _: &[u8],
        _: &str,
    ) -> Result<Matrix, DeviceError> {
        self.made += 1;
        Ok(Matrix { id: self.made, dtype, rows, cols })
    }

    fn view(&mut self, dtype: DType, rows: usize, cols: usize, buffer: Buffer, _: usize) -> Matrix {
        Matrix { id: buffer.0, dtype, rows, cols }
    }

    fn working_bytes(&self, _: &[Call]) -> u64 {
        0
    }

    fn reserve(&mut self, _: &[Call]) -> Result<(), DeviceError> {
        Ok(())
    }

    fn limit(&mut self, _: u64) {}

    fn unload(&mut self, _: Matrix) {}

    fn write(&mut self, _: Buffer, _: usize, _: &[u8]) -> Result<(), DeviceError> {
        Ok(())
    }

    fn read(&mut self, _: Buffer, _: usize, _: &mut [u8]) -> Result<(), DeviceError> {
        self.spend(FakeDevice::WAIT);
        Ok(())
    }

    fn run(&mut self, calls: &[Call]) -> Result<(), DeviceError> {
        self.ran = [self.ran[0] + 1, self.ran[1] + calls.len()];
        let own: f64 = calls.iter().map(|call| FakeDevice::CALL + self.seconds(call)).sum();
        self.spend(FakeDevice::RUN + own);
        Ok(())
    }

    fn memory(&self) -> MemoryUse {
        MemoryUse::default()
    }
}
