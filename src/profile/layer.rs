//! A layer as linear rates are measured with: its sizes, weights and activations.

use super::meter::Meter;
use super::samples::noise;
use crate::backend::DeviceError;
use crate::kernel::{Buffer, Call, Matrix, Projection};
use crate::quant::{DType, Packing, quantize_row};

/// Widths of the layers: of the residual stream, of keys and values, of the feed-forward network.
const HIDDEN: usize = 1536;
const KV: usize = 256;
const FEED_FORWARD: usize = 4096;

/// Linear calls of a layer: outputs of each projection, and inputs.
pub(super) const CALLS: [(&[usize], usize); 4] = [
    (&[HIDDEN, KV, KV], HIDDEN),
    (&[HIDDEN], HIDDEN),
    (&[FEED_FORWARD, FEED_FORWARD], HIDDEN),
    (&[HIDDEN], FEED_FORWARD),
];

/// The call of [`CALLS`] that stands for its layer where that takes too long.
pub(super) const SMALLEST: usize = 1;

/// Weights of a call.
pub(super) fn call_elements((outs, cols): &(&[usize], usize)) -> f64 {
    (outs.iter().sum::<usize>() * cols) as f64
}

/// Weights of the layer.
pub(super) fn layer_elements() -> f64 {
    CALLS.iter().map(call_elements).sum()
}

/// What the calls of a layer read and write.
pub(super) struct Activations {
    narrow: Buffer,
    wide: Buffer,
    /// The third only has room for [`KV`].
    outs: [Buffer; 3],
}

impl Activations {
    pub(super) fn new(meter: &mut Meter<'_>, rows: usize) -> Result<Activations, DeviceError> {
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
pub(super) struct Weights([Vec<Matrix>; 4]);

impl Weights {
    /// One layer, and others as long as `more` are wanted, given the bytes so far; each matrix also goes
    /// into `all`, so that it can be unloaded whatever happens.
    pub(super) fn load(
        meter: &mut Meter<'_>,
        dtype: DType,
        more: impl Fn(usize) -> bool,
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
        let mut layers = vec![layer()?];
        while more(layers.len() * layer_bytes) {
            layers.push(layer()?);
        }
        Ok(layers)
    }

    /// The linear calls of the layer.
    pub(super) fn calls(&self, activations: &Activations, rows: usize) -> Vec<Call> {
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
        let calls = Weights::load(meter, DType::Q4K, |_| false, &mut matrices)
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
