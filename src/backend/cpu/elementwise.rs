//! Kernels that touch each element once or twice: norm, RoPE, cache append, gates, sums, gathers.

use super::buffer::Span;
use super::math::sigmoid;
use super::simd::{LANES, Simd, Task, sum};
use crate::kernel::{Activation, CacheLayout, RopeStyle};
use half::f16;
use std::ops::Range;

/// Elements of one unit of [`Gate`] and [`Add`].
pub(super) const STRETCH: usize = 2048;

/// A row-wise or element-wise kernel; fields as in [`crate::kernel::Call`].
#[derive(Clone, Copy, Debug)]
pub(super) enum Simple {
    Norm { x: Span, weight: Span, out: Span, cols: usize, eps: f32 },
    Rope { x: Span, angles: Span, heads: usize, head_dim: usize, pairs: usize, style: RopeStyle },
    Append { k: Span, v: Span, cache: Span, slots: Span, layout: CacheLayout },
    Gate { gate: Span, up: Span, out: Span, count: usize, activation: Activation },
    Add { x: Span, y: Span, count: usize },
    Gather { x: Span, index: Span, out: Span, cols: usize },
}

/// Units `units` (rows, or stretches of elements) of a kernel.
pub(super) struct Part<'a> {
    pub(super) kernel: &'a Simple,
    pub(super) units: Range<usize>,
}

impl Task for Part<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for unit in self.units {
            // SAFETY: spans check bounds; each unit writes its own row or stretch.
            unsafe {
                match *self.kernel {
                    Simple::Norm { x, weight, out, cols, eps } => {
                        norm::<S>(
                            x.at(unit * cols, cols),
                            weight.at(0, cols),
                            eps,
                            cols,
                            |count| out.at(unit * cols, count),
                        );
                    }
                    Simple::Rope { x, angles, heads, head_dim, pairs, style } => {
                        let angles = angles.slice::<[f32; 2]>(unit * pairs, pairs);
                        let width = heads * head_dim;
                        let row = x.slice_mut::<f32>(unit * width, width);
                        for head in row.chunks_exact_mut(head_dim) {
                            rotate(&mut head[..2 * pairs], angles, style);
                        }
                    }
                    Simple::Append { k, v, cache, slots, layout } => {
                        let width = layout.width();
                        let slot = slots.slice::<u32>(unit, 1)[0] as usize;
                        let narrow = |from: Span, at: usize| {
                            let row = from.slice::<f32>(unit * width, width);
                            narrow::<S>(row, cache.slice_mut::<u16>(at, width));
                        };
                        narrow(k, layout.key_at(slot));
                        narrow(v, layout.value_at(slot));
                    }
                    Simple::Gate { gate, up, out, count, activation } => {
                        let at = unit * STRETCH;
                        let len = STRETCH.min(count - at);
                        let (gate, up) = (gate.at(at, len), up.at(at, len));
                        gated::<S>(activation, gate, up, out.at(at, len), len);
                    }
                    Simple::Add { x, y, count } => {
                        let at = unit * STRETCH;
                        let len = STRETCH.min(count - at);
                        let (x, y) = (x.at::<f32>(at, len), y.at::<f32>(at, len));
                        for i in 0..len {
                            x.add(i).write(x.add(i).read() + y.add(i).read());
                        }
                    }
                    Simple::Gather { x, index, out, cols } => {
                        let row = index.slice::<u32>(unit, 1)[0] as usize;
                        let from = x.slice::<f32>(row * cols, cols);
                        out.slice_mut::<f32>(unit * cols, cols).copy_from_slice(from);
                    }
                }
            }
        }
    }
}

/// Runs `f` on each vector of `len` elements, the last one padded through a buffer.
#[inline(always)]
unsafe fn each_vector<S: Simd>(
    a: *const f32,
    b: *const f32,
    out: *mut f32,
    len: usize,
    f: impl Fn(S::F, S::F) -> S::F,
) {
    // SAFETY: the caller gives `len` elements at each pointer.
    unsafe {
        let whole = len / LANES * LANES;
        for i in (0..whole).step_by(LANES) {
            S::store(out.add(i), f(S::load(a.add(i)), S::load(b.add(i))));
        }
        if whole < len {
            let (mut x, mut y) = ([0.0f32; LANES], [0.0f32; LANES]);
            a.add(whole).copy_to_nonoverlapping(x.as_mut_ptr(), len - whole);
            b.add(whole).copy_to_nonoverlapping(y.as_mut_ptr(), len - whole);
            S::store(x.as_mut_ptr(), f(S::load(x.as_ptr()), S::load(y.as_ptr())));
            out.add(whole).copy_from_nonoverlapping(x.as_ptr(), len - whole);
        }
    }
}

/// The sum of squares runs over four vectors at a time, whatever the row.
#[inline(always)]
unsafe fn norm<S: Simd>(
    x: *const f32,
    weight: *const f32,
    eps: f32,
    cols: usize,
    out: impl Fn(usize) -> *mut f32,
) {
    // SAFETY: the caller gives `cols` elements at each pointer.
    unsafe {
        let mut sums = [S::splat(0.0); 4];
        let whole = cols / LANES;
        for i in 0..whole {
            let v = S::load(x.add(i * LANES));
            sums[i % 4] = S::fma(v, v, sums[i % 4]);
        }
        if whole * LANES < cols {
            let mut rest = [0.0f32; LANES];
            x.add(whole * LANES).copy_to_nonoverlapping(rest.as_mut_ptr(), cols - whole * LANES);
            let v = S::load(rest.as_ptr());
            sums[whole % 4] = S::fma(v, v, sums[whole % 4]);
        }
        let all = S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3]));
        let factor = S::splat(1.0 / (sum::<S>(all) / cols as f32 + eps).sqrt());
        each_vector::<S>(x, weight, out(cols), cols, |x, w| S::mul(S::mul(x, factor), w));
    }
}

#[inline(always)]
fn rotate(head: &mut [f32], angles: &[[f32; 2]], style: RopeStyle) {
    match style {
        RopeStyle::Adjacent => {
            for (pair, [cos, sin]) in head.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
                let [a, b] = *pair;
                *pair = [a * cos - b * sin, a * sin + b * cos];
            }
        }
        RopeStyle::Halves => {
            let (low, high) = head.split_at_mut(angles.len());
            for ((a, b), [cos, sin]) in low.iter_mut().zip(high).zip(angles) {
                (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
            }
        }
    }
}

#[inline(always)]
unsafe fn narrow<S: Simd>(from: &[f32], to: &mut [u16]) {
    let (vectors, rest) = from.as_chunks::<LANES>();
    let (to, to_rest) = to.as_chunks_mut::<LANES>();
    for (from, to) in vectors.iter().zip(to) {
        // SAFETY: sixteen lanes each.
        unsafe { S::store_f16(to.as_mut_ptr(), S::load(from.as_ptr())) };
    }
    for (from, to) in rest.iter().zip(to_rest) {
        *to = f16::from_f32(*from).to_bits();
    }
}

/// `sqrt(2 / pi)`, and the cubic term of gelu's tanh approximation.
const GELU: (f32, f32) = (0.797_884_6, 0.044_715);

#[inline(always)]
unsafe fn gated<S: Simd>(
    activation: Activation,
    gate: *const f32,
    up: *const f32,
    out: *mut f32,
    len: usize,
) {
    // SAFETY: the caller gives `len` elements at each pointer.
    unsafe {
        match activation {
            Activation::Silu => {
                each_vector::<S>(gate, up, out, len, |g, u| S::mul(S::mul(g, sigmoid::<S>(g)), u))
            }
            // (1 + tanh(t)) / 2 is sigmoid(2 t).
            Activation::GeluTanh => each_vector::<S>(gate, up, out, len, |g, u| {
                let cubic = S::fma(S::mul(g, g), S::splat(GELU.1), S::splat(1.0));
                let t = S::mul(S::mul(g, cubic), S::splat(2.0 * GELU.0));
                S::mul(S::mul(g, sigmoid::<S>(t)), u)
            }),
        }
    }
}
