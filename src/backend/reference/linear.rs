//! Matrix times rows, weights expanded one row at a time.

use crate::kernel::Matrix;
use crate::quant::{Packing, dequantize_row, unpack_row};

/// Where a matrix's bytes are.
#[derive(Clone, Copy)]
pub(super) enum Weights<'a> {
    /// Rows in file order.
    Rows(&'a [u8]),
    /// Tiles in packed order.
    Packed(&'a [u8]),
}

/// `out[r][first + n] = sum_k x[r][k] * weight[n][k] + bias[first + n]`, accumulated in f64 and
/// rounded once; a row of `out` has `stride` elements.
pub(super) fn linear(
    (weight, weights): (Matrix, Weights),
    bias: Option<&[f32]>,
    x: &[f32],
    (out, first, stride): (&mut [f32], usize, usize),
    rows: usize,
) {
    let packing = Packing::new(weight.dtype, weight.rows, weight.cols);
    let row_bytes = weight.dtype.row_bytes(weight.cols);
    let mut w = vec![0.0; weight.cols];
    for n in 0..weight.rows {
        match weights {
            Weights::Rows(bytes) => {
                dequantize_row(weight.dtype, &bytes[n * row_bytes..][..row_bytes], &mut w);
            }
            Weights::Packed(bytes) => unpack_row(&packing, bytes, n, &mut w),
        }
        for (r, x) in x.chunks_exact(weight.cols).take(rows).enumerate() {
            let dot: f64 = x.iter().zip(&w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
            out[r * stride + first + n] = dot as f32 + bias.map_or(0.0, |b| b[first + n]);
        }
    }
}
