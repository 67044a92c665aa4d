//! Plain Rust: the definition of each operation.

use super::simd::{LANES, Simd, dots_by_group};
use half::f16;

#[derive(Clone, Copy)]
pub(super) struct Portable;

type F = [f32; LANES];

#[inline(always)]
fn zip(a: F, b: F, f: impl Fn(f32, f32) -> f32) -> F {
    std::array::from_fn(|i| f(a[i], b[i]))
}

// SAFETY of the bodies: the trait's contract gives valid pointers.
impl Simd for Portable {
    type F = F;
    type I = [i32; LANES];
    type W = [[u8; 4]; LANES];
    const BYTE_BIAS: u8 = 0x80;
    const SUMS: usize = 16;
    const HEADS: usize = 4;

    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
    #[inline(always)]
    unsafe fn prefetch_near(_: *const u8) {}
    #[inline(always)]
    unsafe fn splat(v: f32) -> F {
        [v; LANES]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        unsafe { p.cast::<F>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: F) {
        unsafe { p.cast::<F>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> F {
        let halves = unsafe { p.cast::<[u16; LANES]>().read_unaligned() };
        halves.map(|bits| f16::from_bits(bits).to_f32())
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: F) {
        let halves = v.map(|x| f16::from_f32(x).to_bits());
        unsafe { p.cast::<[u16; LANES]>().write_unaligned(halves) }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> F {
        unsafe { p.cast::<[i8; LANES]>().read_unaligned() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn load_halves(p: *const u8) -> [F; 2] {
        let bytes = unsafe { p.cast::<[u8; LANES]>().read_unaligned() };
        [bytes.map(|byte| f32::from(byte & 15) - 8.0), bytes.map(|byte| f32::from(byte >> 4) - 8.0)]
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn pow2(n: F) -> F {
        n.map(|n| f32::from_bits((n + (super::math::ROUNDER + 127.0)).to_bits() << 23))
    }
    #[inline(always)]
    unsafe fn max_lane(v: F) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    unsafe fn sum_in_part(rows: [F; 4]) -> F {
        std::array::from_fn(|i| {
            let (row, j) = (&rows[i / 4], i % 4);
            (row[j] + row[j + 8]) + (row[j + 4] + row[j + 12])
        })
    }
    #[inline(always)]
    unsafe fn sum_parts(parts: &[F; 4]) -> F {
        std::array::from_fn(|i| {
            let four = &parts[i % 4][i / 4 * 4..];
            (four[0] + four[2]) + (four[1] + four[3])
        })
    }
    #[inline(always)]
    unsafe fn splat_i32(v: i32) -> [i32; LANES] {
        [v; LANES]
    }
    #[inline(always)]
    unsafe fn to_f32(v: [i32; LANES]) -> F {
        v.map(|v| v as f32)
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> [[u8; 4]; LANES] {
        unsafe { p.cast::<[[u8; 4]; LANES]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, w: [[u8; 4]; LANES]) {
        unsafe { p.cast::<[[u8; 4]; LANES]>().write_unaligned(w) }
    }
    #[inline(always)]
    unsafe fn field<const BY: i32>(w: [[u8; 4]; LANES], mask: u8) -> [[u8; 4]; LANES] {
        w.map(|w| {
            let word = u32::from_le_bytes(w);
            let word = if BY < 0 { word << -BY } else { word >> BY };
            (word & u32::from_ne_bytes([mask; 4])).to_le_bytes()
        })
    }
    #[inline(always)]
    unsafe fn or(a: [[u8; 4]; LANES], b: [[u8; 4]; LANES]) -> [[u8; 4]; LANES] {
        std::array::from_fn(|i| std::array::from_fn(|j| a[i][j] | b[i][j]))
    }
    #[inline(always)]
    unsafe fn flip(w: [[u8; 4]; LANES], bits: u8) -> [[u8; 4]; LANES] {
        w.map(|w| w.map(|byte| byte ^ bits))
    }
    #[inline(always)]
    unsafe fn dots<const R: usize, const N: usize, const BITS: u32>(
        w: *const u8,
        x: *const i32,
        init: [i32; R],
    ) -> [[i32; LANES]; R] {
        let dot4 = |sum: [i32; LANES], w: [[u8; 4]; LANES], x: i32| {
            let x = x.to_ne_bytes().map(|x| i32::from(x as i8));
            std::array::from_fn(|lane| {
                (0..4).fold(sum[lane], |sum, i| sum + i32::from(w[lane][i]) * x[i])
            })
        };
        unsafe { dots_by_group::<Self, R, N>(w, x, init, dot4) }
    }
}
