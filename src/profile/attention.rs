//! Attention: how fast keys and values stream, and what each product with them costs.

use super::error::ProfileError;
use super::meter::Meter;
use super::samples::{Effort, Samples, noise};
use crate::backend::DeviceError;
use crate::kernel::{AttentionRow, Buffer, CacheLayout, Call, PAGE_LEN};
use forebay_planner::AttentionRate;

/// Formats of the cache.
pub(super) const FORMATS: [&str; 1] = ["f16"];

/// Bytes of keys and values that rows with caches of their own walk over: more than the processor's
/// caches hold, as in a pass over many layers.
const CACHE_BYTES: usize = 64 << 20;

/// Positions that each of these rows sees.
const LENGTH: usize = 512;

/// (query heads, key/value heads, elements of a head).
const SHAPES: [(usize, usize, usize); 3] = [(9, 3, 64), (12, 2, 128), (8, 8, 64)];

/// A call and what it works on.
#[derive(Clone, Copy, Debug)]
struct Case {
    shape: (usize, usize, usize),
    /// Rows of one prompt (which see each other's keys), or one row of each of many sequences.
    prompt: bool,
}

impl Case {
    fn all() -> impl Iterator<Item = Case> {
        SHAPES.into_iter().flat_map(|shape| [false, true].map(|prompt| Case { shape, prompt }))
    }

    fn layout(&self) -> CacheLayout {
        CacheLayout { kv_heads: self.shape.1, head_dim: self.shape.2 }
    }

    /// Pages of one sequence.
    fn pages(&self) -> usize {
        LENGTH / PAGE_LEN
    }

    fn rows(&self) -> usize {
        match self.prompt {
            true => LENGTH,
            false => (CACHE_BYTES / (self.pages() * self.layout().page_bytes())).max(1),
        }
    }

    /// What the rows see.
    fn map(&self) -> Vec<AttentionRow> {
        let row = |i: usize| {
            let (length, start) = if self.prompt { (i + 1, 0) } else { (LENGTH, i * self.pages()) };
            let (length, page_start) = (length as u32, start as u32);
            AttentionRow { page_start, prefix: length, path_start: 0, length }
        };
        (0..self.rows()).map(row).collect()
    }

    /// Elements of keys and values, and products, over all rows.
    fn work(&self) -> [f64; 2] {
        let seen: usize = self.map().iter().map(|row| row.length as usize).sum();
        let (heads, kv_heads, head_dim) = self.shape;
        [kv_heads, heads].map(|heads| (seen * 2 * heads * head_dim) as f64)
    }
}

/// Measurements of one format.
pub(super) struct Attention {
    pub(super) format: &'static str,
    cases: Vec<(Case, Samples)>,
}

impl Attention {
    pub(super) fn new(format: &'static str) -> Attention {
        Attention { format, cases: Case::all().map(|case| (case, Samples::default())).collect() }
    }

    /// One round over the cases.
    pub(super) fn round(
        &mut self,
        meter: &mut Meter<'_>,
        effort: Effort,
    ) -> Result<(), ProfileError> {
        let mark = meter.mark();
        let cache = cache(meter)?;
        let mut speed = None;
        for (case, samples) in &mut self.cases {
            let work = case.work()[1];
            if speed.is_some_and(|seconds| seconds * work > effort.sample_max()) {
                continue;
            }
            let inner = meter.mark();
            let call = call(meter, case, cache)?;
            meter.sample(&[vec![call]], &mut 0, effort.slice(), samples)?;
            speed = Some(samples.seconds() / work);
            meter.release(inner);
        }
        meter.release(mark);
        Ok(())
    }

    /// Both coefficients, by least squares of relative errors.
    pub(super) fn rate(&self) -> AttentionRate {
        let measured = self.cases.iter().filter(|(_, samples)| !samples.is_empty());
        let cases: Vec<([f64; 2], f64)> =
            measured.map(|(case, samples)| (case.work(), samples.seconds())).collect();
        let [kv_element_seconds, product_seconds] = fit(&cases);
        AttentionRate { format: self.format.to_string(), kv_element_seconds, product_seconds }
    }
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
    let rows = case.rows();
    let map = case.map();
    let pages = if case.prompt { case.pages() } else { rows * case.pages() };
    Ok(Call::Attention {
        q: meter.floats(rows * heads * head_dim)?,
        cache,
        map: meter.holding(&map)?,
        pages: meter.holding(&(0..pages as u32).collect::<Vec<u32>>())?,
        path: meter.holding(&[0u32; PAGE_LEN])?,
        out: meter.floats(rows * heads * head_dim)?,
        rows,
        heads,
        layout: case.layout(),
        scale: 1.0 / (head_dim as f32).sqrt(),
        window: 0,
    })
}

/// Coefficients `c >= 0` with `c . work = seconds` at the least squares of relative errors.
fn fit(cases: &[([f64; 2], f64)]) -> [f64; 2] {
    let rows: Vec<[f64; 2]> =
        cases.iter().map(|(work, seconds)| work.map(|work| work / seconds)).collect();
    let sum = |f: &dyn Fn(&[f64; 2]) -> f64| rows.iter().map(f).sum::<f64>();
    let [aa, ab, bb] = [sum(&|r| r[0] * r[0]), sum(&|r| r[0] * r[1]), sum(&|r| r[1] * r[1])];
    let [a, b] = [sum(&|r| r[0]), sum(&|r| r[1])];
    let det = aa * bb - ab * ab;
    let both = [(bb * a - ab * b) / det, (aa * b - ab * a) / det];
    if det > 1e-9 * aa * bb && both.iter().all(|&c| c >= 0.0) {
        return both;
    }
    // One of them explains nothing: the better of the two fits with one alone.
    let error = |c: [f64; 2]| sum(&|r| (c[0] * r[0] + c[1] * r[1] - 1.0).powi(2));
    let alone = [[a / aa, 0.0], [0.0, b / bb]];
    let finite = alone.into_iter().filter(|c| c.iter().all(|c| c.is_finite()));
    finite.min_by(|&x, &y| error(x).total_cmp(&error(y))).unwrap_or([0.0; 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coefficients_come_back() {
        let works = [[1e6, 3e6], [2e6, 12e6], [4e6, 4e6]];
        for want in [[2e-10, 5e-11], [0.0, 1e-10], [3e-10, 0.0]] {
            let cases = works.map(|work| (work, work[0] * want[0] + work[1] * want[1]));
            let got = fit(&cases);
            for (got, want) in got.iter().zip(want) {
                assert!((got - want).abs() < 1e-15, "{got} {want}");
            }
        }
        assert_eq!(fit(&[]), [0.0; 2]);
        // Noise that would make a coefficient negative leaves the other.
        let [a, b] = fit(&[([1.0, 1.0], 1.0), ([1.0, 2.0], 0.5)]);
        assert!(a >= 0.0 && b >= 0.0 && a + b > 0.0);
    }
}
