//! Linear layers: seconds per weight element for each storage type and number of rows.

use super::error::ProfileError;
use super::meter::Meter;
use super::samples::{Effort, Samples, noise};
use crate::backend::DeviceError;
use crate::kernel::{Buffer, Call, Matrix, Projection};
use crate::quant::{DType, Packing, quantize_row};
use forebay_planner::LinearRate;

/// Widths of the layers: of the residual stream, of keys and values, of the feed-forward network.
const HIDDEN: usize = 1536;
const KV: usize = 256;
const FEED_FORWARD: usize = 4096;

/// Linear calls of a layer: outputs of each projection, and inputs.
const CALLS: [(&[usize], usize); 4] = [
    (&[HIDDEN, KV, KV], HIDDEN),
    (&[HIDDEN], HIDDEN),
    (&[FEED_FORWARD, FEED_FORWARD], HIDDEN),
    (&[HIDDEN], FEED_FORWARD),
];

/// Layers that take longer are timed call by call: the shorter a sample, the less often another
/// program comes between. Shorter ones are timed whole, so that weights come from memory in turn.
const WHOLE_SECONDS: f64 = 0.005;

/// The call that stands for its layer where that takes too long.
const SMALLEST: usize = 1;

/// Measurements of one storage type.
pub(super) struct Linear {
    pub(super) dtype: DType,
    points: Vec<Point>,
}

/// Seconds of a layer with one number of rows.
struct Point {
    rows: usize,
    whole: Samples,
    calls: [Samples; 4],
}

impl Point {
    fn new(rows: usize) -> Point {
        Point { rows, whole: Samples::default(), calls: Default::default() }
    }

    /// Seconds of the layer per weight element; 0 where nothing was measured.
    fn seconds(&self) -> f64 {
        if !self.whole.is_empty() {
            return self.whole.seconds() / layer_elements();
        }
        let measured = self.calls.iter().zip(CALLS).filter(|(samples, _)| !samples.is_empty());
        let (seconds, elements) =
            measured.fold((0.0, 0.0), |(seconds, elements), (samples, call)| {
                (seconds + samples.seconds(), elements + call_elements(&call))
            });
        if elements > 0.0 { seconds / elements } else { 0.0 }
    }
}

impl Linear {
    pub(super) fn new(dtype: DType, effort: Effort) -> Linear {
        Linear { dtype, points: effort.rows().iter().map(|&rows| Point::new(rows)).collect() }
    }

    /// One round over the numbers of rows.
    pub(super) fn round(
        &mut self,
        meter: &mut Meter<'_>,
        effort: Effort,
    ) -> Result<(), ProfileError> {
        let mark = meter.mark();
        let rows_max = self.points.last().map_or(1, |point| point.rows);
        let activations = Activations::new(meter, rows_max)?;
        let mut weights = Vec::new();
        let measured = Weights::load(meter, self.dtype, effort.weight_bytes(), &mut weights)
            .and_then(|layers| self.measure(meter, effort, &layers, &activations));
        weights.into_iter().for_each(|matrix| meter.device.unload(matrix));
        meter.release(mark);
        Ok(measured?)
    }

    fn measure(
        &mut self,
        meter: &mut Meter<'_>,
        effort: Effort,
        layers: &[Weights],
        activations: &Activations,
    ) -> Result<(), DeviceError> {
        let (mut next, mut per_row) = (0, 0.0);
        for point in &mut self.points {
            // The cost of a row falls with their number, so this is the most that it can take.
            let expected = |elements: f64| per_row * point.rows as f64 * elements;
            if expected(call_elements(&CALLS[SMALLEST])) > effort.sample_max() {
                break;
            }
            let calls: Vec<Vec<Call>> =
                layers.iter().map(|layer| layer.calls(activations, point.rows)).collect();
            if expected(layer_elements()) < WHOLE_SECONDS {
                meter.sample(&calls, &mut next, effort.slice(), &mut point.whole)?;
            } else {
                let all = expected(layer_elements()) < effort.sample_max();
                let chosen = if all { 0..CALLS.len() } else { SMALLEST..SMALLEST + 1 };
                let slice = effort.slice() / chosen.len() as f64;
                for index in chosen {
                    let alone: Vec<Vec<Call>> =
                        calls.iter().map(|calls| vec![calls[index].clone()]).collect();
                    meter.sample(&alone, &mut next, slice, &mut point.calls[index])?;
                }
            }
            per_row = point.seconds() / point.rows as f64;
        }
        Ok(())
    }

    /// What was measured. Rows that would have taken too long are left out.
    pub(super) fn rate(&self) -> LinearRate {
        let points = self.points.iter().map(|point| (point.rows, point.seconds()));
        let points = points.filter(|&(_, seconds)| seconds > 0.0).collect();
        LinearRate { dtype: self.dtype.to_string(), points }
    }
}

fn call_elements((outs, cols): &(&[usize], usize)) -> f64 {
    (outs.iter().sum::<usize>() * cols) as f64
}

fn layer_elements() -> f64 {
    CALLS.iter().map(call_elements).sum()
}

/// What the calls of a layer read and write.
struct Activations {
    narrow: Buffer,
    wide: Buffer,
    /// The third only has room for [`KV`].
    outs: [Buffer; 3],
}

impl Activations {
    fn new(meter: &mut Meter<'_>, rows: usize) -> Result<Activations, DeviceError> {
        Ok(Activations {
            narrow: meter.floats(rows * HIDDEN)?,
            wide: meter.floats(rows * FEED_FORWARD)?,
            outs: [
                meter.floats(rows * FEED_FORWARD)?,
                meter.floats(rows * FEED_FORWARD)?,
                meter.floats(rows * KV)?,
            ],
        })
    }
}

/// Weights of one layer, in the order of [`CALLS`].
struct Weights([Vec<Matrix>; 4]);

impl Weights {
    /// Layers of `bytes` in all, one at least; each matrix also goes into `all`, so that it can be
    /// unloaded whatever happens.
    fn load(
        meter: &mut Meter<'_>,
        dtype: DType,
        bytes: usize,
        all: &mut Vec<Matrix>,
    ) -> Result<Vec<Weights>, DeviceError> {
        let mut noise = noise();
        let mut rows = [Vec::new(), Vec::new()];
        for (row_bytes, cols) in rows.iter_mut().zip([HIDDEN, FEED_FORWARD]) {
            let row: Vec<f32> = (0..cols).map(|_| 2.0 * noise() - 1.0).collect();
            quantize_row(dtype, &row, row_bytes);
            *row_bytes = row_bytes.repeat(if cols == HIDDEN { FEED_FORWARD } else { HIDDEN });
        }
        let mut load = |outs: usize, cols: usize| {
            let bytes = &rows[usize::from(cols != HIDDEN)][..outs * dtype.row_bytes(cols)];
            let matrix = meter.device.load(dtype, outs, cols, bytes, "measuring")?;
            all.push(matrix);
            Ok(matrix)
        };
        let layer_bytes: usize = CALLS
            .iter()
            .flat_map(|(outs, cols)| {
                outs.iter().map(|&outs| Packing::new(dtype, outs, *cols).bytes())
            })
            .sum();
        let mut layer = || {
            let mut weights = Weights(Default::default());
            for (matrices, (outs, cols)) in weights.0.iter_mut().zip(CALLS) {
                *matrices = outs
                    .iter()
                    .map(|&outs| load(outs, cols))
                    .collect::<Result<_, DeviceError>>()?;
            }
            Ok(weights)
        };
        (0..bytes.div_ceil(layer_bytes)).map(|_| layer()).collect()
    }

    /// The linear calls of the layer.
    fn calls(&self, activations: &Activations, rows: usize) -> Vec<Call> {
        let call = |matrices: &Vec<Matrix>| {
            let cols = matrices[0].cols;
            let x = if cols == HIDDEN { activations.narrow } else { activations.wide };
            let projections = matrices
                .iter()
                .zip(activations.outs)
                .map(|(&weight, out)| Projection::whole(weight, None, out))
                .collect();
            Call::Linear { x, rows, cols, projections }
        };
        self.0.iter().map(call).collect()
    }
}

/// One layer to compute while something else is measured.
pub(super) struct Workload {
    calls: Vec<Call>,
    matrices: Vec<Matrix>,
    mark: usize,
}

impl Workload {
    pub(super) fn load(meter: &mut Meter<'_>, rows: usize) -> Result<Workload, DeviceError> {
        let mark = meter.mark();
        let activations = Activations::new(meter, rows)?;
        let mut matrices = Vec::new();
        let calls = Weights::load(meter, DType::Q4K, 1, &mut matrices)
            .map(|layers| layers[0].calls(&activations, rows));
        match calls {
            Ok(calls) => Ok(Workload { calls, matrices, mark }),
            Err(error) => {
                matrices.into_iter().for_each(|matrix| meter.device.unload(matrix));
                meter.release(mark);
                Err(error)
            }
        }
    }

    pub(super) fn calls(&self) -> &[Call] {
        &self.calls
    }

    pub(super) fn unload(self, meter: &mut Meter<'_>) {
        self.matrices.into_iter().for_each(|matrix| meter.device.unload(matrix));
        meter.release(self.mark);
    }
}
