//! Norms, rotation, gates.

use crate::kernel::{Activation, RopeStyle, rotation_block};

pub(super) fn rms_norm(
    x: &[f32],
    weight: &[f32],
    out: &mut [f32],
    rows: usize,
    cols: usize,
    eps: f32,
) {
    for row in 0..rows {
        let x = &x[row * cols..][..cols];
        let squares: f64 = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
        let scale = (1.0 / (squares / cols as f64 + f64::from(eps)).sqrt()) as f32;
        for ((out, &x), &w) in out[row * cols..][..cols].iter_mut().zip(x).zip(weight) {
            *out = x * scale * w;
        }
    }
}

pub(super) fn rope(
    x: &mut [f32],
    angles: &[f32],
    rows: usize,
    heads: usize,
    head_dim: usize,
    pairs: usize,
    style: RopeStyle,
) {
    for row in 0..rows {
        for head in x[row * heads * head_dim..][..heads * head_dim].chunks_exact_mut(head_dim) {
            for pair in 0..pairs {
                let (cos, sin) =
                    (angles[(row * pairs + pair) * 2], angles[(row * pairs + pair) * 2 + 1]);
                let (a, b) = match style {
                    RopeStyle::Adjacent => (2 * pair, 2 * pair + 1),
                    RopeStyle::Halves => (pair, pair + pairs),
                };
                let (u, v) = (head[a], head[b]);
                head[a] = u * cos - v * sin;
                head[b] = u * sin + v * cos;
            }
        }
    }
}

/// Multiplies each block by the Hadamard matrix of its length: entry `(i, j)` is -1 where `i & j` has an
/// odd number of ones, over the root of the length.
pub(super) fn rotate(x: &mut [f32], head_dim: usize) {
    let len = rotation_block(head_dim);
    for block in x.chunks_exact_mut(len) {
        let before = block.to_vec();
        for (i, out) in block.iter_mut().enumerate() {
            let signed = before.iter().enumerate().map(|(j, &x)| match (i & j).count_ones() % 2 {
                0 => f64::from(x),
                _ => -f64::from(x),
            });
            *out = (signed.sum::<f64>() / (len as f64).sqrt()) as f32;
        }
    }
}

pub(super) fn bias_terms(
    q: &[f32],
    bias: &[f32],
    out: &mut [f32],
    (rows, heads, kv_heads, head_dim): (usize, usize, usize, usize),
    style: RopeStyle,
) {
    let pairs = head_dim / 2;
    for index in 0..rows * heads {
        let kv = index % heads / (heads / kv_heads);
        let (q, bias) = (&q[index * head_dim..][..head_dim], &bias[kv * head_dim..][..head_dim]);
        for pair in 0..pairs {
            let (a, b) = match style {
                RopeStyle::Adjacent => (2 * pair, 2 * pair + 1),
                RopeStyle::Halves => (pair, pair + pairs),
            };
            out[index * head_dim + pair] = q[a] * bias[a] + q[b] * bias[b];
            out[index * head_dim + pairs + pair] = q[b] * bias[a] - q[a] * bias[b];
        }
    }
}

pub(super) fn gate(
    gate: &[f32],
    up: &[f32],
    out: &mut [f32],
    count: usize,
    activation: Activation,
) {
    for i in 0..count {
        let g = gate[i];
        let active = match activation {
            Activation::Silu => g / (1.0 + (-g).exp()),
            Activation::GeluTanh => {
                let inner = (2.0 / std::f32::consts::PI).sqrt() * (g + 0.044715 * g * g * g);
                0.5 * g * (1.0 + inner.tanh())
            }
        };
        out[i] = active * up[i];
    }
}
