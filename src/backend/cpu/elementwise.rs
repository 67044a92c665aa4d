//! Kernels that touch each element once or twice: norm, RoPE, cache append, gates, sums, gathers.

use super::math::sigmoid;
use super::simd::{LANES, Simd, Task, sum};
use super::span::Span;
use crate::kernel::{Activation, CacheLayout, RopeStyle, rotation_block};
use crate::quant::{Side, encode};
use half::f16;
use std::ops::Range;

/// Elements of one unit of [`Gate`] and [`Add`].
pub(super) const STRETCH: usize = 2048;

/// A row-wise or element-wise kernel; fields as in [`crate::kernel::Call`].
#[derive(Clone, Copy, Debug)]
pub(super) enum Simple {
    Norm { x: Span, weight: Span, out: Span, cols: usize, eps: f32 },
    Rope { x: Span, angles: Span, heads: usize, head_dim: usize, pairs: usize, style: RopeStyle },
    Rotate { x: Span, width: usize, head_dim: usize },
    Terms { q: Span, bias: Span, out: Span, shape: Heads, style: RopeStyle },
    Append { k: Span, v: Span, cache: Span, slots: Span, layout: CacheLayout },
    Move { cache: Span, moves: Span, count: usize, layout: CacheLayout },
    Gate { gate: Span, up: Span, out: Span, count: usize, activation: Activation },
    Add { x: Span, y: Span, count: usize },
    Gather { x: Span, index: Span, out: Span, first: usize, cols: usize },
}

/// Query heads, key heads, elements of a head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
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
                        let (x, out) = (x.at(unit * cols, cols), out.at(unit * cols, cols));
                        norm::<S>(x, weight.at(0, cols), out, cols, eps);
                    }
                    Simple::Rope { x, angles, heads, head_dim, pairs, style } => {
                        let angles = angles.slice::<[f32; 2]>(unit * pairs, pairs);
                        let width = heads * head_dim;
                        let row = x.slice_mut::<f32>(unit * width, width);
                        for head in row.chunks_exact_mut(head_dim) {
                            rotate(&mut head[..2 * pairs], angles, style);
                        }
                    }
                    Simple::Rotate { x, width, head_dim } => {
                        spread(x.slice_mut::<f32>(unit * width, width), rotation_block(head_dim));
                    }
                    Simple::Terms { q, bias, out, shape, style } => {
                        let width = shape.heads * shape.head_dim;
                        let bias = bias.slice::<f32>(0, shape.kv_heads * shape.head_dim);
                        let q = q.slice::<f32>(unit * width, width);
                        terms(q, bias, out.slice_mut::<f32>(unit * width, width), shape, style);
                    }
                    Simple::Append { k, v, cache, slots, layout } => {
                        let slot = slots.slice::<u32>(unit, 1)[0] as usize;
                        append::<S>(k, unit, cache, layout.key_at(slot), layout, Side::Key);
                        append::<S>(v, unit, cache, layout.value_at(slot), layout, Side::Value);
                    }
                    Simple::Move { cache, moves, count, layout } => {
                        let side = if unit == 0 { Side::Key } else { Side::Value };
                        move_slots(cache, moves.slice::<[u32; 2]>(0, count), layout, side);
                    }
                    Simple::Gate { gate, up, out, count, activation } => {
                        let at = unit * STRETCH;
                        let len = STRETCH.min(count - at);
                        let (gate, up) = (gate.at(at, len), up.at(at, len));
                        let out = out.at(at, len);
                        match activation {
                            Activation::Silu => each_vector::<S>(gate, up, out, len, Silu),
                            Activation::GeluTanh => each_vector::<S>(gate, up, out, len, Gelu),
                        }
                    }
                    Simple::Add { x, y, count } => {
                        let at = unit * STRETCH;
                        let len = STRETCH.min(count - at);
                        let (x, y) = (x.at::<f32>(at, len), y.at::<f32>(at, len));
                        for i in 0..len {
                            x.add(i).write(x.add(i).read() + y.add(i).read());
                        }
                    }
                    Simple::Gather { x, index, out, first, cols } => {
                        let row = index.slice::<u32>(unit, 1)[0] as usize;
                        let from = x.slice::<f32>(row * cols, cols);
                        out.slice_mut::<f32>((first + unit) * cols, cols).copy_from_slice(from);
                    }
                }
            }
        }
    }
}

/// A function of two vectors. Closures would not inherit the vector features of their surroundings.
trait Lanewise: Copy {
    unsafe fn apply<S: Simd>(self, a: S::F, b: S::F) -> S::F;
}

/// Runs `f` on each vector of `len` elements, the last one padded through a buffer.
#[inline(always)]
unsafe fn each_vector<S: Simd>(
    a: *const f32,
    b: *const f32,
    out: *mut f32,
    len: usize,
    f: impl Lanewise,
) {
    // SAFETY: the caller gives `len` elements at each pointer.
    unsafe {
        let whole = len / LANES * LANES;
        for i in (0..whole).step_by(LANES) {
            S::store(out.add(i), f.apply::<S>(S::load(a.add(i)), S::load(b.add(i))));
        }
        if whole < len {
            let (mut x, mut y) = ([0.0f32; LANES], [0.0f32; LANES]);
            a.add(whole).copy_to_nonoverlapping(x.as_mut_ptr(), len - whole);
            b.add(whole).copy_to_nonoverlapping(y.as_mut_ptr(), len - whole);
            S::store(x.as_mut_ptr(), f.apply::<S>(S::load(x.as_ptr()), S::load(y.as_ptr())));
            out.add(whole).copy_from_nonoverlapping(x.as_ptr(), len - whole);
        }
    }
}

/// The sum of squares runs over four vectors at a time, whatever the row.
#[inline(always)]
unsafe fn norm<S: Simd>(x: *const f32, weight: *const f32, out: *mut f32, cols: usize, eps: f32) {
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
        let factor = 1.0 / (sum::<S>(all) / cols as f32 + eps).sqrt();
        each_vector::<S>(x, weight, out, cols, Scaled(factor));
    }
}

/// `a * factor * b`.
#[derive(Clone, Copy)]
struct Scaled(f32);

impl Lanewise for Scaled {
    #[inline(always)]
    unsafe fn apply<S: Simd>(self, a: S::F, b: S::F) -> S::F {
        // SAFETY: arithmetic only.
        unsafe { S::mul(S::mul(a, S::splat(self.0)), b) }
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

/// Multiplies blocks of `len` elements by Hadamard's matrix: sums and differences at distances of one, two,
/// four and so on.
#[inline(always)]
fn spread(row: &mut [f32], len: usize) {
    let scale = 1.0 / (len as f32).sqrt();
    for block in row.chunks_exact_mut(len) {
        let mut distance = 1;
        while distance < len {
            for both in block.chunks_exact_mut(2 * distance) {
                let (low, high) = both.split_at_mut(distance);
                for (a, b) in low.iter_mut().zip(high) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            distance *= 2;
        }
        block.iter_mut().for_each(|x| *x *= scale);
    }
}

#[inline(always)]
fn terms(q: &[f32], bias: &[f32], out: &mut [f32], shape: Heads, style: RopeStyle) {
    let Heads { heads, kv_heads, head_dim } = shape;
    let group = heads / kv_heads;
    let each = q.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim));
    for (head, (q, out)) in each.enumerate() {
        let bias = &bias[head / group * head_dim..][..head_dim];
        let (cosines, sines) = out.split_at_mut(head_dim / 2);
        for (i, (cosine, sine)) in cosines.iter_mut().zip(sines).enumerate() {
            let (a, b) = match style {
                RopeStyle::Adjacent => (2 * i, 2 * i + 1),
                RopeStyle::Halves => (i, i + head_dim / 2),
            };
            *cosine = q[a] * bias[a] + q[b] * bias[b];
            *sine = q[b] * bias[a] - q[a] * bias[b];
        }
    }
}

/// Stores one row of keys or values at byte `at` of the cache.
#[inline(always)]
unsafe fn append<S: Simd>(
    from: Span,
    row: usize,
    cache: Span,
    at: usize,
    layout: CacheLayout,
    side: Side,
) {
    let width = layout.width();
    let (bits, bytes) = match side {
        Side::Key => (layout.format.key_bits(), layout.key_bytes()),
        Side::Value => (layout.format.value_bits(), layout.value_bytes()),
    };
    // SAFETY: spans check bounds; a slot is written by its row alone.
    unsafe {
        let row = from.slice::<f32>(row * width, width);
        if bits == 16 {
            return narrow::<S>(row, cache.slice_mut::<u16>(at / 2, width));
        }
        let heads = cache.slice_mut::<u8>(at, bytes * layout.kv_heads);
        for (x, out) in row.chunks_exact(layout.head_dim).zip(heads.chunks_exact_mut(bytes)) {
            encode(x, bits, side, out);
        }
    }
}

/// Moves the keys or the values of slots, in order.
unsafe fn move_slots(cache: Span, moves: &[[u32; 2]], layout: CacheLayout, side: Side) {
    let (bytes, at): (usize, fn(&CacheLayout, usize) -> usize) = match side {
        Side::Key => (layout.key_bytes(), CacheLayout::key_at),
        Side::Value => (layout.value_bytes(), CacheLayout::value_at),
    };
    let bytes = bytes * layout.kv_heads;
    for &[from, to] in moves {
        // SAFETY: spans check bounds; one unit moves all keys, the other all values.
        unsafe {
            let from = cache.at::<u8>(at(&layout, from as usize), bytes);
            let to = cache.at::<u8>(at(&layout, to as usize), bytes);
            to.copy_from(from, bytes);
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

#[derive(Clone, Copy)]
struct Silu;

impl Lanewise for Silu {
    #[inline(always)]
    unsafe fn apply<S: Simd>(self, gate: S::F, up: S::F) -> S::F {
        // SAFETY: arithmetic only.
        unsafe { S::mul(S::mul(gate, sigmoid::<S>(gate)), up) }
    }
}

#[derive(Clone, Copy)]
struct Gelu;

impl Lanewise for Gelu {
    /// `(1 + tanh(t)) / 2` is `sigmoid(2 t)`.
    #[inline(always)]
    unsafe fn apply<S: Simd>(self, gate: S::F, up: S::F) -> S::F {
        // SAFETY: arithmetic only.
        unsafe {
            let cubic = S::fma(S::mul(gate, gate), S::splat(GELU.1), S::splat(1.0));
            let t = S::mul(S::mul(gate, cubic), S::splat(2.0 * GELU.0));
            S::mul(S::mul(gate, sigmoid::<S>(t)), up)
        }
    }
}
