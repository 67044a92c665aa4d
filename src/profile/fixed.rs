//! What a pass costs before anything is computed: waiting, runs, calls.

use super::effort::Pace;
use super::meter::Meter;
use super::samples::{Samples, Timing};
use crate::backend::DeviceError;
use crate::kernel::{Buffer, Call};

/// Elements of the smaller and of the larger sum that calls are timed with: enough for a processor to
/// wake its helpers, few enough for its inner caches.
const SIZES: [usize; 2] = [64 << 10, 128 << 10];
/// Calls of the shorter and of the longer list.
const LENGTHS: [usize; 2] = [4, 36];
/// Timings of each in one round, at least and at most.
const REPEATS: [usize; 2] = [5, 40];
/// Slices of a round that all of them may take.
const SLICES: f64 = 10.0;

/// Fixed costs, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct FixedCosts {
    /// Waiting for the device after its last call.
    pub(super) wait: f64,
    /// A run of a list of calls.
    pub(super) run: f64,
    /// A call of a list.
    pub(super) call: f64,
    /// A pass.
    pub(super) pass: f64,
}

impl FixedCosts {
    /// Fixed costs within a timing.
    pub(super) fn of(&self, timing: &Timing) -> f64 {
        self.wait + timing.runs as f64 * self.run + timing.calls as f64 * self.call
    }
}

/// Measurements of fixed costs: other things take them off, so they are looked at in every round.
#[derive(Default)]
pub(super) struct Fixed {
    wait: Samples,
    pass: Samples,
    /// By length of the list, then size of its sums.
    lists: [[Samples; 2]; 2],
}

impl Fixed {
    pub(super) fn round(&mut self, meter: &mut Meter<'_>, pace: Pace) -> Result<(), DeviceError> {
        let mark = meter.mark();
        let (x, y) = (meter.floats(SIZES[1])?, meter.floats(SIZES[1])?);
        let maps: Vec<Buffer> = (0..6).map(|_| meter.buffer(4096)).collect::<Result<_, _>>()?;
        let list = |length: usize, count: usize| vec![Call::Add { x, y, count }; length];
        let lists = LENGTHS.map(|length| SIZES.map(|size| list(length, size)));
        // Kernels are compiled, memory is touched and helpers wake up for the first calls.
        meter.elapsed([lists[1][1].as_slice()])?;
        pass_seconds(meter, &maps)?;
        let (start, end) = (pace.spent(), SLICES * pace.slice());
        for repeat in 0..REPEATS[1] {
            if repeat >= REPEATS[0] && pace.spent() - start > end {
                break;
            }
            self.wait.push(meter.elapsed([])?);
            for (times, lists) in self.lists.iter_mut().zip(&lists) {
                for (times, list) in times.iter_mut().zip(lists) {
                    times.push(meter.elapsed([list.as_slice()])?);
                }
            }
            self.pass.push(pass_seconds(meter, &maps)?);
        }
        meter.release(mark);
        Ok(())
    }

    /// What was measured so far. A list of `n` sums of `s` elements takes
    /// `wait + run + n (call + s e)`.
    pub(super) fn costs(&self) -> FixedCosts {
        let wait = self.wait.least();
        let lists = self.lists.each_ref();
        let [short, long] = lists.map(|times| times.each_ref().map(|times| times.least()));
        let added = (LENGTHS[1] - LENGTHS[0]) as f64;
        let [small, large] = [0, 1].map(|size| (long[size] - short[size]).max(0.0) / added);
        let per_element = (large - small).max(0.0) / (SIZES[1] - SIZES[0]) as f64;
        FixedCosts {
            wait,
            run: (short[0] - wait - LENGTHS[0] as f64 * small).max(0.0),
            call: (small - SIZES[0] as f64 * per_element).max(0.0),
            pass: self.pass.least(),
        }
    }
}

/// Sends what every pass sends, small, and waits as for its logits.
fn pass_seconds(meter: &mut Meter<'_>, maps: &[Buffer]) -> Result<f64, DeviceError> {
    let start = meter.now();
    for &map in maps {
        meter.device.write(map, 0, &[0; 512])?;
    }
    meter.finish()?;
    Ok(meter.now() - start)
}

#[cfg(test)]
mod tests {
    use super::super::effort::Effort;
    use super::super::fake::FakeDevice;
    use super::super::meter::Clock;
    use super::*;

    /// A burst over the whole first round: later rounds know better.
    #[test]
    fn a_busy_round_is_forgotten() {
        let mut device = FakeDevice { slowness: 7.0, ..FakeDevice::default() };
        let mut fixed = Fixed::default();
        for slowness in [7.0, 1.0, 1.3] {
            device.slowness = slowness;
            let mut meter = Meter::new(&mut device, Clock::Fake).unwrap();
            fixed.round(&mut meter, Pace::start(Effort::Quick, Clock::Fake)).unwrap();
        }
        let costs = fixed.costs();
        for (got, want) in [
            (costs.wait, FakeDevice::WAIT),
            (costs.run, FakeDevice::RUN),
            (costs.call, FakeDevice::CALL),
            (costs.pass, FakeDevice::WAIT),
        ] {
            assert!((got / want - 1.0).abs() < 1e-6, "{costs:?}");
        }
    }
}
