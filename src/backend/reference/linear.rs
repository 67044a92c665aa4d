//! Matrix times rows, weights expanded one row at a time.

use crate::kernel::Matrix;
use crate::quant::dequantize_row;

/// `out[r][n] = sum_k x[r][k] * weight[n][k] + bias[n]`, accumulated in f64 and rounded once.
pub(super) fn linear(
    weight: Matrix,
    bytes: &[u8],
    bias: Option<&[f32]>,
    x: &[f32],
    out: &mut [f32],
    rows: usize,
) {
    let mut w = vec![0.0; weight.cols];
    for (n, row) in bytes.chunks_exact(weight.dtype.row_bytes(weight.cols)).enumerate() {
        dequantize_row(weight.dtype, row, &mut w);
        for (r, x) in x.chunks_exact(weight.cols).take(rows).enumerate() {
            let dot: f64 = x.iter().zip(&w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
            out[r * weight.rows + n] = dot as f32 + bias.map_or(0.0, |b| b[n]);
        }
    }
}
