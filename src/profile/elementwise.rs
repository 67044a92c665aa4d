//! Everything of a layer that is neither linear nor attention: seconds per number read or written.

use super::effort::Pace;
use super::error::ProfileError;
use super::fixed::FixedCosts;
use super::meter::Meter;
use super::samples::Timings;
use crate::backend::DeviceError;
use crate::kernel::{Activation, CacheLayout, Call, KvFormat, PAGE_LEN, RopeStyle};

const HIDDEN: usize = 1536;
const FEED_FORWARD: usize = 5120;
const HEADS: usize = 12;
const LAYOUT: CacheLayout = CacheLayout { kv_heads: 2, head_dim: 128, format: KvFormat::F16 };

/// Rows of a decoding pass, and of a chunk of prompts: the larger leaves the inner caches.
const ROWS: [usize; 2] = [32, 256];

/// Measurements at each of [`ROWS`].
#[derive(Default)]
pub(super) struct Elementwise([Timings; 2]);

impl Elementwise {
    pub(super) fn round(&mut self, meter: &mut Meter<'_>, pace: Pace) -> Result<(), ProfileError> {
        let mark = meter.mark();
        for (timings, rows) in self.0.iter_mut().zip(ROWS) {
            let calls = calls(meter, rows)?;
            meter.sample(&[calls], &mut 0, pace.slice(), timings)?;
            meter.release(mark);
        }
        Ok(())
    }

    /// Seconds per number: the mean of small and large passes.
    pub(super) fn seconds(&self, fixed: &FixedCosts) -> f64 {
        let of = |(timings, rows): (&Timings, usize)| {
            timings.seconds(fixed) / (rows * touched_per_row()) as f64
        };
        self.0.iter().zip(ROWS).map(of).sum::<f64>() / ROWS.len() as f64
    }
}

/// The calls of a layer that are neither linear nor attention.
fn calls(meter: &mut Meter<'_>, rows: usize) -> Result<Vec<Call>, DeviceError> {
    let pairs = LAYOUT.head_dim / 2;
    let (x, normed) = (meter.floats(rows * HIDDEN)?, meter.floats(rows * HIDDEN)?);
    let weight = meter.floats(HIDDEN)?;
    let q = meter.floats(rows * HEADS * LAYOUT.head_dim)?;
    let (k, v) = (meter.floats(rows * LAYOUT.width())?, meter.floats(rows * LAYOUT.width())?);
    let cache = meter.buffer(rows.div_ceil(PAGE_LEN) * LAYOUT.page_bytes())?;
    let slots = meter.holding(&(0..rows as u32).collect::<Vec<u32>>())?;
    let angles = meter.floats(rows * pairs * 2)?;
    let (gate, up) = (meter.floats(rows * FEED_FORWARD)?, meter.floats(rows * FEED_FORWARD)?);
    let norm = Call::RmsNorm { x, weight, out: normed, rows, cols: HIDDEN, eps: 1e-6 };
    let rope = |x, heads| {
        let head_dim = LAYOUT.head_dim;
        Call::Rope { x, angles, rows, heads, head_dim, pairs, style: RopeStyle::Halves }
    };
    let add = Call::Add { x, y: normed, count: rows * HIDDEN };
    Ok(vec![
        norm.clone(),
        rope(q, HEADS),
        rope(k, LAYOUT.kv_heads),
        Call::Append { k, v, cache, slots, rows, layout: LAYOUT },
        add.clone(),
        norm,
        Call::Gate {
            gate,
            up,
            out: gate,
            count: rows * FEED_FORWARD,
            activation: Activation::Silu,
        },
        add,
    ])
}

/// Numbers that the calls read or write per row; of appends, those that they store; tables left out.
/// The planner multiplies by the same: see `DeviceRates::elementwise_seconds`.
fn touched_per_row() -> usize {
    let (q, kv) = (HEADS * LAYOUT.head_dim, LAYOUT.width());
    10 * HIDDEN + 2 * q + 4 * kv + 3 * FEED_FORWARD
}

#[cfg(test)]
mod tests {
    use super::super::meter::Clock;
    use super::*;
    use crate::backend::Device;
    use crate::backend::reference::ReferenceDevice;

    /// Numbers that a call reads or writes.
    fn touched(call: &Call) -> usize {
        match call {
            Call::RmsNorm { rows, cols, .. } => 2 * rows * cols,
            Call::Rope { rows, heads, head_dim, .. } => 2 * rows * heads * head_dim,
            Call::Append { rows, layout, .. } => 2 * rows * layout.width(),
            Call::Gate { count, .. } | Call::Add { count, .. } => 3 * count,
            other => panic!("{other:?} is measured elsewhere"),
        }
    }

    #[test]
    fn a_layer_touches_what_is_counted() {
        let mut device = ReferenceDevice::new();
        let mut meter = Meter::new(&mut device, Clock::Wall).unwrap();
        let touched: usize = calls(&mut meter, 3).unwrap().iter().map(touched).sum();
        assert_eq!(touched, 3 * touched_per_row());
        drop(meter);
        assert_eq!(device.memory().bytes, 0, "everything was released");
    }
}
