//! Times kernel calls on a device that may run them later.

use super::samples::{Samples, noise};
use crate::backend::{Device, DeviceError, DeviceKind};
use crate::kernel::{Buffer, Call};
use std::time::Instant;

/// What counts as time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clock {
    /// The clock on the wall.
    #[default]
    Wall,
    /// Time that the calling thread has been on a core: for a device of one thread, on a machine
    /// whose other programs are to be left out. Where the system does not tell, the wall's.
    OnCore,
}

impl Clock {
    /// Seconds since some moment.
    pub fn now(self) -> f64 {
        #[cfg(unix)]
        if self == Clock::OnCore {
            let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            return time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9;
        }
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_secs_f64()
    }
}

/// A sample shorter than this says more of the clock and of waking up than of what is measured.
const SAMPLE_MIN: f64 = 0.002;

/// A device with a clock.
pub(super) struct Meter<'a> {
    pub(super) device: &'a mut dyn Device,
    clock: Clock,
    /// Whether the first of equal calls takes longer, as kernels are compiled for it.
    warms_up: bool,
    /// Waiting for the device after its last call, seconds.
    pub(super) wait: f64,
    /// Fixed cost of a run.
    pub(super) run: f64,
    /// Fixed cost of a call.
    pub(super) call: f64,
    tail: Buffer,
    held: Vec<Buffer>,
}

impl<'a> Meter<'a> {
    pub(super) fn new(device: &'a mut dyn Device, clock: Clock) -> Result<Meter<'a>, DeviceError> {
        let tail = device.alloc(16, "measuring")?;
        let kind = device.info().kind;
        let warms_up = !matches!(kind, DeviceKind::Cpu | DeviceKind::Reference);
        Ok(Meter {
            device,
            clock,
            warms_up,
            wait: 0.0,
            run: 0.0,
            call: 0.0,
            tail,
            held: vec![tail],
        })
    }

    /// Seconds since some moment.
    pub(super) fn now(&self) -> f64 {
        self.clock.now()
    }

    /// A buffer of `count` f32 from -1 to 1, released by [`Meter::release`].
    pub(super) fn floats(&mut self, count: usize) -> Result<Buffer, DeviceError> {
        let mut noise = noise();
        let block: Vec<f32> = (0..count.min(1 << 16)).map(|_| 2.0 * noise() - 1.0).collect();
        let buffer = self.buffer(count * 4)?;
        for first in (0..count).step_by(block.len().max(1)) {
            let part = &block[..block.len().min(count - first)];
            self.device.write(buffer, first * 4, bytemuck::cast_slice(part))?;
        }
        Ok(buffer)
    }

    /// A buffer that holds `values`.
    pub(super) fn holding<T: bytemuck::NoUninit>(
        &mut self,
        values: &[T],
    ) -> Result<Buffer, DeviceError> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let buffer = self.buffer(bytes.len())?;
        self.device.write(buffer, 0, bytes)?;
        Ok(buffer)
    }

    /// A zeroed buffer.
    pub(super) fn buffer(&mut self, bytes: usize) -> Result<Buffer, DeviceError> {
        let buffer = self.device.alloc(bytes, "measuring")?;
        self.held.push(buffer);
        Ok(buffer)
    }

    /// How many buffers are held now, for [`Meter::release`].
    pub(super) fn mark(&self) -> usize {
        self.held.len()
    }

    /// Releases the buffers that were made since `mark`.
    pub(super) fn release(&mut self, mark: usize) {
        self.held.drain(mark..).for_each(|buffer| self.device.free(buffer));
    }

    /// Waits until all calls so far are done.
    pub(super) fn finish(&mut self) -> Result<(), DeviceError> {
        self.device.read(self.tail, 0, &mut [0; 4])
    }

    /// Seconds until all of `runs` are done, waiting included.
    pub(super) fn elapsed<'c>(
        &mut self,
        runs: impl IntoIterator<Item = &'c [Call]>,
    ) -> Result<f64, DeviceError> {
        let start = self.now();
        for calls in runs {
            self.device.run(calls)?;
        }
        self.finish()?;
        Ok(self.now() - start)
    }

    /// Takes samples of the seconds of one run for about `slice` seconds, one at least, fixed costs
    /// taken off. `runs` are taken in turn from `next` on; a sample is as many as make
    /// [`SAMPLE_MIN`].
    pub(super) fn sample(
        &mut self,
        runs: &[Vec<Call>],
        next: &mut usize,
        slice: f64,
        to: &mut Samples,
    ) -> Result<(), DeviceError> {
        if self.warms_up && to.is_empty() {
            self.elapsed([runs[*next].as_slice()])?;
        }
        let start = Instant::now();
        let mut count = 1;
        loop {
            let turn: Vec<&[Call]> =
                (0..count).map(|i| runs[(*next + i) % runs.len()].as_slice()).collect();
            let calls: usize = turn.iter().map(|calls| calls.len()).sum();
            let raw = self.elapsed(turn)?;
            *next = (*next + count) % runs.len();
            let fixed = self.wait + count as f64 * self.run + calls as f64 * self.call;
            let spent = start.elapsed().as_secs_f64();
            if raw < SAMPLE_MIN && count < 1 << 12 && spent < slice {
                count *= ((SAMPLE_MIN / raw.max(1e-6)).ceil() as usize).clamp(2, 16);
                continue;
            }
            // Noise in a fixed cost must not make work free.
            to.push((raw - fixed).max(0.05 * raw) / count as f64);
            if spent + raw > slice {
                return Ok(());
            }
        }
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        self.release(0);
    }
}
