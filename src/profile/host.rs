//! What the host does for each row and each logit of a pass.

use super::disk::DiskPlace;
use super::effort::Pace;
use super::error::ProfileError;
use super::fixed::FixedCosts;
use super::meter::Meter;
use super::samples::{Timing, Timings, noise};
use crate::forward::angles;
use crate::kernel::RopeStyle;
use crate::model::RopeSpec;
use crate::quant::{DType, dequantize_row};
use crate::sample::{History, NoiseKey, SamplingParams, for_rows};
use crate::store::{FileSource, Source};
use std::io::Write;
use std::time::Instant;

/// Vocabulary and rows of the logits that are fetched and sampled.
const VOCAB: usize = 128 << 10;
const OUTPUTS: usize = 16;

/// Width of an embedding, rotated pairs of a head, rows fetched, and rows of the table.
const HIDDEN: usize = 1536;
const PAIRS: usize = 64;
const ROWS: usize = 128;
const TABLE_ROWS: usize = 2048;

/// Fetching and sampling logits.
pub(super) struct Logits {
    timings: Timings,
    greedy: Timings,
    values: Vec<f32>,
}

impl Logits {
    pub(super) fn new() -> Logits {
        Logits { timings: Timings::default(), greedy: Timings::default(), values: Vec::new() }
    }

    /// One round, at temperature 1 over the whole vocabulary, the default of jobs, and at 0.
    pub(super) fn round(&mut self, meter: &mut Meter<'_>, pace: Pace) -> Result<(), ProfileError> {
        let mark = meter.mark();
        let mut noise = noise();
        // Sums of uniform numbers: as flat as an unsure model's logits.
        let values: Vec<f32> = (0..OUTPUTS * VOCAB)
            .map(|_| 3.0 * (noise() + noise() + noise() + noise() - 2.0))
            .collect();
        let logits = meter.holding(&values)?;
        let params = |temperature| SamplingParams { temperature, ..SamplingParams::default() };
        self.values = values;
        let begin = Instant::now();
        let both = [params(1.0), params(0.0)];
        for (params, greedy) in both.iter().zip([false, true]).cycle() {
            if !self.greedy.is_empty() && begin.elapsed().as_secs_f64() > 2.0 * pace.slice() {
                break;
            }
            let start = meter.now();
            meter.device.read(logits, 0, bytemuck::cast_slice_mut(&mut self.values))?;
            let rows = (0..OUTPUTS).zip(self.values.chunks_exact(VOCAB)).collect();
            let tokens = for_rows(rows, |sampler, position, logits| {
                let key = NoiseKey::new(1, 0, position);
                sampler.sample(params, logits, &History::default(), key)
            });
            std::hint::black_box(tokens);
            let seconds = meter.now() - start;
            let timings = if greedy { &mut self.greedy } else { &mut self.timings };
            timings.push(Timing { seconds, units: OUTPUTS * VOCAB, runs: 0, calls: 0 });
        }
        self.values = Vec::new();
        meter.release(mark);
        Ok(())
    }

    /// Seconds per logit.
    pub(super) fn seconds(&self, fixed: &FixedCosts) -> f64 {
        self.timings.seconds(fixed)
    }

    /// Seconds per logit at temperature 0.
    pub(super) fn greedy_seconds(&self, fixed: &FixedCosts) -> f64 {
        self.greedy.seconds(fixed)
    }
}

/// Reading and expanding embeddings, making rotary angles, sending both.
#[derive(Default)]
pub(super) struct Embedding(Timings);

impl Embedding {
    /// One round over a small table on the disk, which the system keeps in its cache.
    pub(super) fn round(
        &mut self,
        meter: &mut Meter<'_>,
        place: &DiskPlace,
        pace: Pace,
    ) -> Result<(), ProfileError> {
        let disk = |source| ProfileError::disk(place.folder(), source);
        let mut noise = noise();
        let mut table = tempfile::NamedTempFile::new_in(place.folder()).map_err(disk)?;
        let row_bytes = DType::Q8_0.row_bytes(HIDDEN);
        let bytes: Vec<u8> = (0..TABLE_ROWS * row_bytes).map(|_| (noise() * 60.0) as u8).collect();
        table.write_all(&bytes).map_err(disk)?;
        let source = FileSource::open(table.path()).map_err(disk)?;
        let mark = meter.mark();
        let (x, turned) = (meter.buffer(ROWS * HIDDEN * 4)?, meter.buffer(ROWS * PAIRS * 8)?);
        let inv_freq = (0..PAIRS).map(|i| 1e4f32.powf(-(i as f32) / PAIRS as f32)).collect();
        let rope = RopeSpec { style: RopeStyle::Halves, inv_freq };
        let positions: Vec<u32> = (0..ROWS as u32).collect();
        let (mut row, mut floats) = (vec![0; row_bytes], vec![0.0; ROWS * HIDDEN]);
        let mut table = Vec::new();
        let begin = Instant::now();
        while self.0.is_empty() || begin.elapsed().as_secs_f64() < pace.slice() {
            let start = meter.now();
            for (at, out) in floats.chunks_exact_mut(HIDDEN).enumerate() {
                let token = at * 977 % TABLE_ROWS;
                source.read_at((token * row_bytes) as u64, &mut row).map_err(disk)?;
                dequantize_row(DType::Q8_0, &row, out);
            }
            meter.device.write(x, 0, bytemuck::cast_slice(&floats))?;
            angles(&rope, &positions, &mut table);
            meter.device.write(turned, 0, bytemuck::cast_slice(&table))?;
            meter.finish()?;
            let seconds = meter.now() - start;
            self.0.push(Timing { seconds, units: ROWS, runs: 0, calls: 0 });
        }
        meter.release(mark);
        Ok(())
    }

    /// Seconds per row.
    pub(super) fn seconds(&self, fixed: &FixedCosts) -> f64 {
        self.0.seconds(fixed)
    }
}
