//! What a pass costs before anything is computed: waiting, runs, calls.

use super::meter::Meter;
use super::samples::Samples;
use crate::backend::DeviceError;
use crate::kernel::{Buffer, Call};

/// Elements of the smaller and of the larger sum that calls are timed with: enough for a processor to
/// wake its helpers, few enough for its inner caches.
const SIZES: [usize; 2] = [64 << 10, 128 << 10];
/// Calls of the shorter and of the longer list.
const LENGTHS: [usize; 2] = [4, 36];
const REPEATS: usize = 60;
/// Seconds after which fewer repeats must do.
const SECONDS_MAX: f64 = 0.5;

/// Measures the fixed costs that `meter` then takes off, and returns the fixed cost of a pass.
///
/// A list of `n` sums of `s` elements takes `run + n (call + s e)`.
pub(super) fn measure(meter: &mut Meter<'_>) -> Result<f64, DeviceError> {
    let mark = meter.mark();
    let (x, y) = (meter.floats(SIZES[1])?, meter.floats(SIZES[1])?);
    let maps: Vec<Buffer> = (0..6).map(|_| meter.buffer(4096)).collect::<Result<_, _>>()?;
    let list = |length: usize, count: usize| vec![Call::Add { x, y, count }; length];
    let lists = LENGTHS.map(|length| SIZES.map(|size| list(length, size)));
    // Kernels are compiled for the first call.
    meter.elapsed([lists[0][0].as_slice()])?;
    let start = std::time::Instant::now();
    let (mut wait, mut pass) = (Samples::default(), Samples::default());
    let mut times: [[Samples; 2]; 2] = Default::default();
    for _ in 0..REPEATS {
        wait.push(meter.elapsed([])?);
        for (times, lists) in times.iter_mut().zip(&lists) {
            for (times, list) in times.iter_mut().zip(lists) {
                times.push(meter.elapsed([list.as_slice()])?);
            }
        }
        pass.push(pass_seconds(meter, &maps)?);
        if start.elapsed().as_secs_f64() > SECONDS_MAX {
            break;
        }
    }
    meter.wait = wait.seconds();
    let [short, long] = times.map(|times| times.map(|times| times.seconds()));
    let added = (LENGTHS[1] - LENGTHS[0]) as f64;
    let [small, large] = [0, 1].map(|size| (long[size] - short[size]).max(0.0) / added);
    let per_element = (large - small).max(0.0) / (SIZES[1] - SIZES[0]) as f64;
    meter.call = (small - SIZES[0] as f64 * per_element).max(0.0);
    meter.run = (short[0] - meter.wait - LENGTHS[0] as f64 * small).max(0.0);
    meter.release(mark);
    Ok(pass.seconds())
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
