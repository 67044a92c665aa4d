//! Times kernel calls on a device that may run them later.

use super::samples::{Timing, Timings, noise};
use crate::backend::{Device, DeviceError};
use crate::kernel::{Buffer, Call};
use std::ops::Range;
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
    /// The clock of [`super::fake`].
    #[cfg(test)]
    Fake,
}

impl Clock {
    /// Seconds since some moment.
    pub fn now(self) -> f64 {
        #[cfg(unix)]
        if self == Clock::OnCore {
            let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            return time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9;
        }
        #[cfg(test)]
        if self == Clock::Fake {
            return super::fake::fake_now();
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
    tail: Buffer,
    held: Vec<Buffer>,
}

impl<'a> Meter<'a> {
    pub(super) fn new(device: &'a mut dyn Device, clock: Clock) -> Result<Meter<'a>, DeviceError> {
        let tail = device.alloc(16, "measuring")?;
        Ok(Meter { device, clock, tail, held: vec![tail] })
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

    /// Takes timings of runs for about `slice` seconds, one at least. `runs` are taken in turn from
    /// `next` on; a timing has as many as make [`SAMPLE_MIN`]. What is run for the first time (kernels
    /// are compiled, memory is touched) is not counted.
    pub(super) fn sample(
        &mut self,
        runs: &[Vec<Call>],
        next: &mut usize,
        slice: f64,
        to: &mut Timings,
    ) -> Result<(), DeviceError> {
        if to.is_empty() {
            self.elapsed([runs[*next % runs.len()].as_slice()])?;
            *next += 1;
        }
        let start = self.now();
        let mut count = 1;
        loop {
            let turn: Vec<&[Call]> =
                (0..count).map(|i| runs[(*next + i) % runs.len()].as_slice()).collect();
            let calls: usize = turn.iter().map(|calls| calls.len()).sum();
            let seconds = self.elapsed(turn)?;
            *next = (*next + count) % runs.len();
            let spent = self.now() - start;
            if seconds < SAMPLE_MIN && count < 1 << 12 && spent < slice {
                count *= ((SAMPLE_MIN / seconds.max(1e-6)).ceil() as usize).clamp(2, 16);
                continue;
            }
            to.push(Timing { seconds, units: count, runs: count, calls });
            if spent + seconds > slice {
                return Ok(());
            }
        }
    }

    /// Takes timings of the `chosen` calls of each run alone for about `slice` seconds, one at least:
    /// the shorter a timing, the less often another program comes between. They run in their order
    /// and `runs` in turn, so that weights come from where they would come from.
    pub(super) fn sample_calls(
        &mut self,
        runs: &[Vec<Call>],
        next: &mut usize,
        chosen: Range<usize>,
        slice: f64,
        to: &mut [Timings],
    ) -> Result<(), DeviceError> {
        let first = chosen.start;
        if to[first].is_empty() {
            self.elapsed([&runs[*next % runs.len()][first..=first]])?;
            *next += 1;
        }
        let start = self.now();
        loop {
            let run = &runs[*next % runs.len()];
            *next = (*next + 1) % runs.len();
            let begun = self.now();
            for (call, to) in run[chosen.clone()].iter().zip(&mut to[chosen.clone()]) {
                let seconds = self.elapsed([std::slice::from_ref(call)])?;
                to.push(Timing { seconds, units: 1, runs: 1, calls: 1 });
            }
            let now = self.now();
            if now - start + (now - begun) > slice {
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

#[cfg(test)]
mod tests {
    use super::super::fake::FakeDevice;
    use super::super::fixed::FixedCosts;
    use super::*;

    const FIXED: FixedCosts = FixedCosts {
        wait: FakeDevice::WAIT,
        run: FakeDevice::RUN,
        call: FakeDevice::CALL,
        pass: FakeDevice::WAIT,
    };

    fn sums(meter: &mut Meter<'_>, counts: &[usize]) -> Vec<Call> {
        let (x, y) = (meter.floats(1).unwrap(), meter.floats(1).unwrap());
        counts.iter().map(|&count| Call::Add { x, y, count }).collect()
    }

    #[test]
    fn short_runs_are_timed_together_and_the_first_not_at_all() {
        let mut device = FakeDevice::default();
        let mut meter = Meter::new(&mut device, Clock::Fake).unwrap();
        let runs = [sums(&mut meter, &[5_000, 1_000])];
        let mut timings = Timings::default();
        meter.sample(&runs, &mut 0, 0.012, &mut timings).unwrap();
        assert!((timings.seconds(&FIXED) - 6e-6).abs() < 1e-12);
        drop(meter);
        assert!(device.ran[0] > 500, "{:?}", device.ran);

        // Late: one to warm up, one to count.
        let mut device = FakeDevice::default();
        let mut meter = Meter::new(&mut device, Clock::Fake).unwrap();
        let mut timings = Timings::default();
        meter.sample(&runs, &mut 0, 0.0, &mut timings).unwrap();
        drop(meter);
        assert_eq!(device.ran[0], 2);
    }

    #[test]
    fn calls_are_timed_alone_and_in_their_order() {
        let mut device = FakeDevice::default();
        let mut meter = Meter::new(&mut device, Clock::Fake).unwrap();
        let runs = [sums(&mut meter, &[5, 1_000_000, 3_000_000])];
        let mut timings: [Timings; 3] = Default::default();
        meter.sample_calls(&runs, &mut 0, 1..3, 0.013, &mut timings).unwrap();
        assert!(timings[0].is_empty(), "it was not chosen");
        assert!((timings[1].seconds(&FIXED) - 1e-3).abs() < 1e-9);
        assert!((timings[2].seconds(&FIXED) - 3e-3).abs() < 1e-9);
        drop(meter);
        assert_eq!(device.ran, [7, 7], "one to warm up, three times both");
    }
}
