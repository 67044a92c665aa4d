//! Whether other programs use the machine while it is measured: the same calls, looked at again and again.

use super::effort::Pace;
use super::layer::{SMALLEST, Workload};
use super::meter::Meter;
use super::samples::Timings;
use crate::backend::DeviceError;
use crate::kernel::Call;

/// Rows of the call: enough to keep all threads computing.
const ROWS: usize = 8;
/// Slices of one look.
const SLICES: f64 = 3.0;
/// Slices before the first: processors need a while to reach their frequency.
const SETTLE_SLICES: f64 = 8.0;

/// Looks at one linear call.
pub(super) struct Steadiness {
    workload: Workload,
    calls: [Vec<Call>; 1],
    looks: Vec<Look>,
}

/// What the call took during one look.
#[derive(Clone, Copy, Debug)]
struct Look {
    mean: f64,
    least: f64,
}

impl Steadiness {
    /// Loads the call, and runs it until the device is awake.
    pub(super) fn load(meter: &mut Meter<'_>, pace: Pace) -> Result<Steadiness, DeviceError> {
        let workload = Workload::load(meter, ROWS)?;
        let calls = [vec![workload.calls()[SMALLEST].clone()]];
        let steadiness = Steadiness { workload, calls, looks: Vec::new() };
        match steadiness.take(meter, SETTLE_SLICES * pace.slice()) {
            Ok(_) => Ok(steadiness),
            Err(error) => {
                steadiness.unload(meter);
                Err(error)
            }
        }
    }

    /// Looks once more.
    pub(super) fn look(&mut self, meter: &mut Meter<'_>, pace: Pace) -> Result<(), DeviceError> {
        let look = self.take(meter, SLICES * pace.slice())?;
        self.looks.push(look);
        Ok(())
    }

    fn take(&self, meter: &mut Meter<'_>, slice: f64) -> Result<Look, DeviceError> {
        let mut timings = Timings::default();
        meter.sample(&self.calls, &mut 0, slice, &mut timings)?;
        Ok(Look { mean: timings.mean(), least: timings.gross() })
    }

    pub(super) fn noise(&self) -> f64 {
        noise(&self.looks)
    }

    pub(super) fn unload(self, meter: &mut Meter<'_>) {
        self.workload.unload(meter);
    }
}

/// By how much the call took longer than it can, as a part of the least time, over all looks: also a
/// program that never pauses shows, since it is not on all cores at every moment.
fn noise(looks: &[Look]) -> f64 {
    let least = looks.iter().map(|look| look.least).fold(f64::INFINITY, f64::min);
    let mean = looks.iter().map(|look| look.mean).sum::<f64>() / looks.len().max(1) as f64;
    if least > 0.0 && least.is_finite() { (mean / least - 1.0).max(0.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::super::effort::Effort;
    use super::super::fake::FakeDevice;
    use super::super::meter::Clock;
    use super::*;

    #[test]
    fn a_quiet_machine_has_no_noise_and_a_busy_look_shows() {
        for (slowness, want) in [([1.0, 1.0, 1.0], 0.0), ([1.0, 2.2, 1.0], 0.4), ([3.0; 3], 0.0)] {
            let mut device = FakeDevice::default();
            let mut looks = Vec::new();
            for slowness in slowness {
                device.slowness = slowness;
                let mut meter = Meter::new(&mut device, Clock::Fake).unwrap();
                let pace = Pace::start(Effort::Quick, Clock::Fake);
                let mut steadiness = Steadiness::load(&mut meter, pace).unwrap();
                steadiness.look(&mut meter, pace).unwrap();
                looks.append(&mut steadiness.looks);
                steadiness.unload(&mut meter);
            }
            // Samples of different lengths share the wait differently.
            assert!((noise(&looks) - want).abs() < 1e-3, "{looks:?}");
        }
        assert_eq!(noise(&[]), 0.0);
    }

    #[test]
    fn interruptions_within_every_look_show_too() {
        assert!((noise(&[Look { mean: 1.5, least: 1.0 }; 3]) - 0.5).abs() < 1e-12);
    }
}
