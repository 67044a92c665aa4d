//! A layer as linear rates are measured with: its sizes, weights and activations.

use super::meter::Meter;
use super::samples::noise;
use crate::backend::{DeviceError, DeviceKind};
use crate::kernel::{Buffer, Call, Matrix, Projection};
use crate::quant::{DType, Packing, quantize_row};

/// A layer's linear calls.
pub(super) struct LayerShape {
    /// Outputs of each projection, and inputs: queries with keys and values, the attention's output, gate
    /// and up, down.
    pub(super) calls: [(&'static [usize], usize); 4],
}

/// As large as matters to a processor, and quick to load.
static SMALL: LayerShape = LayerShape {
    calls: [(&[1536, 256, 256], 1536), (&[1536], 1536), (&[4096, 4096], 1536), (&[1536], 4096)],
};

/// A GPU's many cores are busy only with layers of the models it is bought for.
static LARGE: LayerShape = LayerShape {
    calls: [
        (&[4096, 1024, 1024], 4096),
        (&[4096], 4096),
        (&[12288, 12288], 4096),
        (&[4096], 12288),
    ],
};

/// The call that stands for its layer where that takes too long.
pub(super) const SMALLEST: usize = 1;

impl LayerShape {
    pub(super) fn of(kind: DeviceKind) -> &'static LayerShape {
        if kind == DeviceKind::DiscreteGpu { &LARGE } else { &SMALL }
    }

    /// Weights of a call.
    pub(super) fn call_elements(&self, call: usize) -> f64 {
        let (outs, cols) = self.calls[call];
        (outs.iter().sum::<usize>() * cols) as f64
    }

    /// Weights of the layer.
    pub(super) fn elements(&self) -> f64 {
        (0..self.calls.len()).map(|call| self.call_elements(call)).sum()
    }

    fn hidden(&self) -> usize {
        self.calls[0].1
    }

    fn feed_forward(&self) -> usize {
        self.calls[3].1
    }
}

/// What the calls of a layer read and write.
pub(super) struct Activations {
    narrow: Buffer,
    wide: Buffer,
    /// The third only has room for keys or values.
    outs: [Buffer; 3],
}

impl Activations {
    pub(super) fn new(meter: &mut Meter<'_>, rows: usize) -> Result<Activations, DeviceError> {
        let shape = LayerShape::of(meter.device.info().kind);
        let kv = shape.calls[0].0[2];
        Ok(Activations {
            narrow: meter.floats(rows * shape.hidden())?,
            wide: meter.floats(rows * shape.feed_forward())?,
            outs: [
                meter.floats(rows * shape.feed_forward())?,
                meter.floats(rows * shape.feed_forward())?,
                meter.floats(rows * kv)?,
            ],
        })
    }
}

/// Weights of one layer, in the order of [`LayerShape::calls`].
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
        let shape = LayerShape::of(meter.device.info().kind);
        let (hidden, feed_forward) = (shape.hidden(), shape.feed_forward());
        let mut rows = [Vec::new(), Vec::new()];
        for (row_bytes, cols) in rows.iter_mut().zip([hidden, feed_forward]) {
            let row: Vec<f32> = (0..cols).map(|_| 2.0 * noise() - 1.0).collect();
            quantize_row(dtype, &row, row_bytes);
            *row_bytes = row_bytes.repeat(if cols == hidden { feed_forward } else { hidden });
        }
        let mut load = |outs: usize, cols: usize| {
            let bytes = &rows[usize::from(cols != hidden)][..outs * dtype.row_bytes(cols)];
            let matrix = meter.device.load(dtype, outs, cols, bytes, "measuring")?;
            all.push(matrix);
            Ok(matrix)
        };
        let layer_bytes: usize = shape
            .calls
            .iter()
            .flat_map(|(outs, cols)| {
                outs.iter().map(|&outs| Packing::new(dtype, outs, *cols).bytes())
            })
            .sum();
        let mut layer = || {
            let mut weights = Weights(Default::default());
            for (matrices, (outs, cols)) in weights.0.iter_mut().zip(shape.calls) {
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
        let narrow = self.0[0][0].cols;
        let call = |matrices: &Vec<Matrix>| {
            let cols = matrices[0].cols;
            let x = if cols == narrow { activations.narrow } else { activations.wide };
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
