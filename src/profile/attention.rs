//! Attention: how fast keys and values stream, and what each product with them costs.

use super::effort::Pace;
use super::error::ProfileError;
use super::fixed::FixedCosts;
use super::meter::Meter;
use super::samples::{Timings, noise};
use crate::backend::DeviceError;
use crate::kernel::{AttentionRow, Buffer, CacheLayout, Call, KvFormat, PAGE_LEN};
use forebay_planner::AttentionRate;

/// Formats of the cache.
pub(super) const FORMATS: [KvFormat; 3] = KvFormat::ALL;

/// Bytes of keys and values that rows with caches of their own walk over: more than the processor's
/// caches hold, as in a pass over many layers.
const CACHE_BYTES: usize = 64 << 20;

/// Positions that each of these rows sees.
const LENGTH: usize = 512;

/// Pages of a sequence.
const PAGES: usize = LENGTH / PAGE_LEN;

/// (query heads, key/value heads, elements of a head).
const SHAPES: [(usize, usize, usize); 3] = [(9, 3, 64), (12, 2, 128), (8, 8, 64)];

/// Cases that are measured however late it is: one shape both ways.
const CASES_MIN: usize = 2;

/// A call and what it works on.
#[derive(Clone, Copy, Debug)]
struct Case {
    format: KvFormat,
    shape: (usize, usize, usize),
    /// Rows of one prompt (which see each other's keys), or one row of each of many sequences.
    prompt: bool,
    rows: usize,
}

impl Case {
    /// Every shape both ways, in calls of at most `products` products.
    fn all(format: KvFormat, products: f64) -> impl Iterator<Item = Case> {
        SHAPES.into_iter().flat_map(move |shape| {
            [false, true].map(|prompt| {
                let mut case = Case { format, shape, prompt, rows: 1 };
                let row = case.work()[2];
                let most = if prompt { LENGTH } else { CACHE_BYTES / case.sequence_bytes() };
                case.rows = most.min((products / row) as usize).max(4);
                case
            })
        })
    }

    fn layout(&self) -> CacheLayout {
        CacheLayout { kv_heads: self.shape.1, head_dim: self.shape.2, format: self.format }
    }

    fn sequence_bytes(&self) -> usize {
        PAGES * self.layout().page_bytes()
    }

    /// What the rows see: the last positions of a prompt, or each the end of a sequence of its own.
    fn map(&self) -> Vec<AttentionRow> {
        let row = |i: usize| {
            let (length, start) = match self.prompt {
                true => (LENGTH - self.rows + 1 + i, 0),
                false => (LENGTH, i * PAGES),
            };
            let (length, page_start) = (length as u32, start as u32);
            AttentionRow { page_start, prefix: length, path_start: 0, length }
        };
        (0..self.rows).map(row).collect()
    }

    /// Elements of keys and values of all sequences, the same over all rows, and products.
    fn work(&self) -> [f64; 3] {
        let seen: usize = self.map().iter().map(|row| row.length as usize).sum();
        let held = if self.prompt { LENGTH } else { seen };
        let (heads, kv_heads, head_dim) = self.shape;
        [held * kv_heads, seen * kv_heads, seen * heads].map(|heads| (heads * 2 * head_dim) as f64)
    }
}

/// Measurements of one format.
pub(super) struct Attention {
    pub(super) format: KvFormat,
    cases: Vec<(Case, Timings)>,
}

impl Attention {
    pub(super) fn new(format: KvFormat) -> Attention {
        Attention { format, cases: Vec::new() }
    }

    /// One round over the cases.
    pub(super) fn round(&mut self, meter: &mut Meter<'_>, pace: Pace) -> Result<(), ProfileError> {
        let mark = meter.mark();
        let cache = cache(meter)?;
        if self.cases.is_empty() {
            // A few rows first, to see how many the device can do in a sample.
            let (format, shape) = (self.format, SHAPES[0]);
            let pilot = Case { format, shape, prompt: false, rows: 8 };
            let mut timings = Timings::default();
            time(meter, &pilot, cache, 0.0, &mut timings)?;
            let per_second = pilot.work()[2] / timings.gross();
            let cases = Case::all(format, pace.effort.sample_max() / 2.0 * per_second);
            self.cases = cases.map(|case| (case, Timings::default())).collect();
        }
        for (index, (case, timings)) in self.cases.iter_mut().enumerate() {
            if index >= CASES_MIN && pace.is_late() {
                break;
            }
            time(meter, case, cache, pace.slice(), timings)?;
        }
        meter.release(mark);
        Ok(())
    }

    /// The coefficients, by least squares of relative errors.
    pub(super) fn rate(&self, fixed: &FixedCosts) -> AttentionRate {
        let measured = self.cases.iter().filter(|(_, timings)| !timings.is_empty());
        let cases: Vec<([f64; 3], f64)> =
            measured.map(|(case, timings)| (case.work(), timings.seconds(fixed))).collect();
        let [stream_seconds, kv_element_seconds, product_seconds] = fit(&cases);
        for (work, seconds) in &cases {
            let fitted = dot(work, &[stream_seconds, kv_element_seconds, product_seconds]);
            tracing::debug!(?work, seconds, error = fitted / seconds - 1.0, "attention");
        }
        let format = self.format.name().to_string();
        AttentionRate { format, stream_seconds, kv_element_seconds, product_seconds }
    }
}

fn time(
    meter: &mut Meter<'_>,
    case: &Case,
    cache: Buffer,
    slice: f64,
    timings: &mut Timings,
) -> Result<(), DeviceError> {
    let mark = meter.mark();
    let call = call(meter, case, cache)?;
    meter.sample(&[vec![call]], &mut 0, slice, timings)?;
    meter.release(mark);
    Ok(())
}

/// Pages full of small numbers, whatever the format makes of them.
fn cache(meter: &mut Meter<'_>) -> Result<Buffer, DeviceError> {
    let mut noise = noise();
    let block: Vec<u8> = (0..1 << 20).map(|_| 0x20 + (noise() * 24.0) as u8).collect();
    let cache = meter.buffer(CACHE_BYTES)?;
    for first in (0..CACHE_BYTES).step_by(block.len()) {
        meter.device.write(cache, first, &block)?;
    }
    Ok(cache)
}

fn call(meter: &mut Meter<'_>, case: &Case, cache: Buffer) -> Result<Call, DeviceError> {
    let (heads, _, head_dim) = case.shape;
    let (rows, map) = (case.rows, case.map());
    let pages = if case.prompt { PAGES } else { rows * PAGES };
    Ok(Call::Attention {
        q: meter.floats(rows * heads * head_dim)?,
        cache,
        map: meter.holding(&map)?,
        pages: meter.holding(&(0..pages as u32).collect::<Vec<u32>>())?,
        path: meter.holding(&[0u32; PAGE_LEN])?,
        out: meter.floats(rows * heads * head_dim)?,
        rows,
        longest: map.iter().map(|row| row.length as usize).max().unwrap_or(0),
        heads,
        layout: case.layout(),
        key_bias: None,
        scale: 1.0 / (head_dim as f32).sqrt(),
        window: 0,
    })
}

/// Coefficients `c >= 0` with `c . work = seconds` at the least squares of relative errors: the best of
/// the fits with each subset of the coefficients that has no negative one.
fn fit(cases: &[([f64; 3], f64)]) -> [f64; 3] {
    let rows: Vec<[f64; 3]> =
        cases.iter().map(|(work, seconds)| work.map(|work| work / seconds)).collect();
    let error = |c: &[f64; 3]| -> f64 {
        let miss = |row: &[f64; 3]| dot(row, c) - 1.0;
        rows.iter().map(|row| miss(row).powi(2)).sum()
    };
    let fits = (1..8).filter_map(|subset| fit_subset(&rows, subset));
    fits.min_by(|a, b| error(a).total_cmp(&error(b))).unwrap_or([0.0; 3])
}

fn dot(a: &[f64; 3], b: &[f64; 3]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The least-squares solution of `rows . c = 1` with the coefficients of `subset` alone, by the normal
/// equations and Gauss-Jordan elimination; `None` where they are singular or one is negative.
fn fit_subset(rows: &[[f64; 3]], subset: usize) -> Option<[f64; 3]> {
    let has = |i: usize| subset >> i & 1 == 1;
    let mut system = [[0.0f64; 4]; 3];
    for (i, equation) in system.iter_mut().enumerate() {
        for (j, cell) in equation[..3].iter_mut().enumerate() {
            let sum: f64 = rows.iter().map(|row| row[i] * row[j]).sum();
            *cell = if has(i) && has(j) { sum } else { f64::from(u8::from(i == j)) };
        }
        equation[3] = if has(i) { rows.iter().map(|row| row[i]).sum() } else { 0.0 };
    }
    let scales = [0, 1, 2].map(|i| system[i][i]);
    for i in 0..3 {
        let pivot = system[i][i];
        if pivot.is_nan() || pivot <= 1e-9 * scales[i] {
            return None;
        }
        let own = system[i].map(|cell| cell / pivot);
        for (j, equation) in system.iter_mut().enumerate() {
            let factor = if i == j { 0.0 } else { equation[i] };
            let from = if i == j { own } else { *equation };
            *equation = std::array::from_fn(|k| from[k] - factor * own[k]);
        }
    }
    let found = system.map(|equation| equation[3]);
    found.iter().all(|&c| c >= 0.0 && c.is_finite()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coefficients_come_back() {
        let works: Vec<[f64; 3]> = Case::all(KvFormat::F16, 1e9).map(|case| case.work()).collect();
        for want in [[1e-10, 2e-10, 5e-11], [0.0, 0.0, 1e-10], [3e-10, 0.0, 2e-11]] {
            let cases: Vec<([f64; 3], f64)> =
                works.iter().map(|work| (*work, dot(work, &want))).collect();
            let got = fit(&cases);
            for (got, want) in got.iter().zip(want) {
                assert!((got - want).abs() < 1e-15, "{got} {want}");
            }
        }
        assert_eq!(fit(&[]), [0.0; 3]);
    }

    #[test]
    fn slow_devices_get_fewer_rows() {
        for (all, few) in Case::all(KvFormat::Q4, f64::INFINITY).zip(Case::all(KvFormat::Q4, 1e5)) {
            assert!(few.rows == 4 && few.map()[3].length as usize == LENGTH, "{few:?}");
            assert!(all.rows >= 64 && all.map()[0].length >= 1, "{all:?}");
            assert!(all.prompt || all.rows * all.sequence_bytes() <= CACHE_BYTES);
        }
    }

    /// Noise that would make a coefficient negative leaves the others.
    #[test]
    fn no_coefficient_is_negative() {
        let cases = [([0.0, 1.0, 1.0], 1.0), ([0.0, 1.0, 2.0], 0.5), ([1.0, 1.0, 1.0], 0.9)];
        let found = fit(&cases);
        assert!(found.iter().all(|&c| c >= 0.0) && found.iter().sum::<f64>() > 0.0, "{found:?}");
    }
}
