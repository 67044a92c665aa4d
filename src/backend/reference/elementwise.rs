//! Norms, rotation, gates.

use crate::kernel::{Activation, RopeStyle};

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
