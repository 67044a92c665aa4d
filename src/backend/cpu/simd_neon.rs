//! NEON with integer dot products: vectors of four.

use super::simd::{LANES, Simd, Task};
use std::arch::aarch64::*;
use std::arch::asm;

#[derive(Clone, Copy)]
pub(super) struct Neon;

/// Runs a task with the features of the path.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn run<T: Task>(task: T) {
    // SAFETY: the caller answers for the features.
    unsafe { task.run::<Neon>() }
}

type F = [float32x4_t; 4];
type I = [int32x4_t; 4];
type W = [uint8x16_t; 4];

/// One operation on each part of two vectors.
macro_rules! each {
    ($operation:ident, $a:expr, $b:expr) => {{
        let (a, b) = ($a, $b);
        [
            $operation(a[0], b[0]),
            $operation(a[1], b[1]),
            $operation(a[2], b[2]),
            $operation(a[3], b[3]),
        ]
    }};
}

/// Adds the products of four pairs of i8 to each lane. The intrinsic is not stable yet.
#[inline(always)]
unsafe fn dot4(mut sum: int32x4_t, w: uint8x16_t, x: int32x4_t) -> int32x4_t {
    // SAFETY: the caller answers for the feature.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {w:v}.16b, {x:v}.16b",
            sum = inout(vreg) sum,
            w = in(vreg) w,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// Sixteen bytes, zero-extended.
#[inline(always)]
unsafe fn floats(bytes: uint8x16_t) -> F {
    // SAFETY: the caller answers for the features.
    unsafe {
        let (low, high) = (vmovl_u8(vget_low_u8(bytes)), vmovl_high_u8(bytes));
        [
            vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))),
            vcvtq_f32_u32(vmovl_high_u16(low)),
            vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))),
            vcvtq_f32_u32(vmovl_high_u16(high)),
        ]
    }
}

// SAFETY of the bodies: the trait's contract gives features and valid pointers.
impl Simd for Neon {
    type F = F;
    type I = I;
    type W = W;
    const BYTE_BIAS: u8 = 0;
    const SUMS: usize = 4;
    const HEADS: usize = 4;

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe {
            asm!("prfm pldl2keep, [{p}]", p = in(reg) p, options(nostack, preserves_flags, readonly));
        }
    }
    #[inline(always)]
    unsafe fn prefetch_near(p: *const u8) {
        unsafe {
            asm!("prfm pldl1keep, [{p}]", p = in(reg) p, options(nostack, preserves_flags, readonly));
        }
    }
    #[inline(always)]
    unsafe fn splat(v: f32) -> F {
        unsafe { [vdupq_n_f32(v); 4] }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        unsafe { [vld1q_f32(p), vld1q_f32(p.add(4)), vld1q_f32(p.add(8)), vld1q_f32(p.add(12))] }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: F) {
        unsafe {
            for (i, v) in v.into_iter().enumerate() {
                vst1q_f32(p.add(4 * i), v);
            }
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> F {
        unsafe {
            let (a, b) = (vld1q_u16(p), vld1q_u16(p.add(8)));
            let (a, b) = (vreinterpretq_f16_u16(a), vreinterpretq_f16_u16(b));
            [
                vcvt_f32_f16(vget_low_f16(a)),
                vcvt_high_f32_f16(a),
                vcvt_f32_f16(vget_low_f16(b)),
                vcvt_high_f32_f16(b),
            ]
        }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: F) {
        unsafe {
            let low = vcvt_high_f16_f32(vcvt_f16_f32(v[0]), v[1]);
            let high = vcvt_high_f16_f32(vcvt_f16_f32(v[2]), v[3]);
            vst1q_u16(p, vreinterpretq_u16_f16(low));
            vst1q_u16(p.add(8), vreinterpretq_u16_f16(high));
        }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> F {
        unsafe {
            let bytes = vld1q_s8(p.cast());
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            [
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                vcvtq_f32_s32(vmovl_high_s16(low)),
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                vcvtq_f32_s32(vmovl_high_s16(high)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn load_halves(p: *const u8) -> [F; 2] {
        unsafe {
            let bytes = vld1q_u8(p);
            let halves = [vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8::<4>(bytes)];
            halves.map(|codes| Self::sub(floats(codes), Self::splat(8.0)))
        }
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        unsafe { each!(vaddq_f32, a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        unsafe { each!(vsubq_f32, a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        unsafe { each!(vmulq_f32, a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        unsafe { each!(vdivq_f32, a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        unsafe {
            let mut out = b;
            for (out, (a, b)) in out.iter_mut().zip(a.into_iter().zip(b)) {
                *out = vbslq_f32(vcgtq_f32(a, b), a, b);
            }
            out
        }
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        unsafe {
            let mut out = b;
            for (out, (a, b)) in out.iter_mut().zip(a.into_iter().zip(b)) {
                *out = vbslq_f32(vcltq_f32(a, b), a, b);
            }
            out
        }
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        unsafe {
            let mut out = c;
            for (out, (a, b)) in out.iter_mut().zip(a.into_iter().zip(b)) {
                *out = vfmaq_f32(*out, a, b);
            }
            out
        }
    }
    #[inline(always)]
    unsafe fn pow2(n: F) -> F {
        unsafe {
            let mut out = Self::add(n, Self::splat(super::math::ROUNDER + 127.0));
            for out in &mut out {
                *out = vreinterpretq_f32_u32(vshlq_n_u32::<23>(vreinterpretq_u32_f32(*out)));
            }
            out
        }
    }
    #[inline(always)]
    unsafe fn max_lane(v: F) -> f32 {
        unsafe { vmaxvq_f32(vmaxq_f32(vmaxq_f32(v[0], v[1]), vmaxq_f32(v[2], v[3]))) }
    }
    #[inline(always)]
    unsafe fn sum_in_part(v: [F; 4]) -> F {
        unsafe { v.map(|row| vaddq_f32(vaddq_f32(row[0], row[2]), vaddq_f32(row[1], row[3]))) }
    }
    #[inline(always)]
    unsafe fn sum_parts(by4: &[F; 4]) -> F {
        unsafe {
            let mut sums = [vdupq_n_f32(0.0); 4];
            for (i, to) in sums.iter_mut().enumerate() {
                // Two sums of rows 4 i and the next, then of the two after them.
                let mut by2 = [*to; 2];
                for (pair, to) in by2.iter_mut().enumerate() {
                    let (a, b) = (by4[2 * pair][i], by4[2 * pair + 1][i]);
                    let (a, b) = (vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b));
                    let low = vreinterpretq_f32_f64(vzip1q_f64(a, b));
                    *to = vaddq_f32(low, vreinterpretq_f32_f64(vzip2q_f64(a, b)));
                }
                *to = vpaddq_f32(by2[0], by2[1]);
            }
            sums
        }
    }
    #[inline(always)]
    unsafe fn splat_i32(v: i32) -> I {
        unsafe { [vdupq_n_s32(v); 4] }
    }
    #[inline(always)]
    unsafe fn to_f32(v: I) -> F {
        unsafe {
            [vcvtq_f32_s32(v[0]), vcvtq_f32_s32(v[1]), vcvtq_f32_s32(v[2]), vcvtq_f32_s32(v[3])]
        }
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> W {
        unsafe { [vld1q_u8(p), vld1q_u8(p.add(16)), vld1q_u8(p.add(32)), vld1q_u8(p.add(48))] }
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, w: W) {
        unsafe {
            for (i, w) in w.into_iter().enumerate() {
                vst1q_u8(p.add(16 * i), w);
            }
        }
    }
    #[inline(always)]
    unsafe fn field<const BY: i32>(w: W, mask: u8) -> W {
        unsafe {
            let (by, mask) = (vdupq_n_s32(-BY), vdupq_n_u8(mask));
            let mut out = w;
            for out in &mut out {
                let moved = vshlq_u32(vreinterpretq_u32_u8(*out), by);
                *out = vandq_u8(vreinterpretq_u8_u32(moved), mask);
            }
            out
        }
    }
    #[inline(always)]
    unsafe fn or(a: W, b: W) -> W {
        unsafe { each!(vorrq_u8, a, b) }
    }
    #[inline(always)]
    unsafe fn flip(w: W, bits: u8) -> W {
        unsafe { each!(veorq_u8, w, [vdupq_n_u8(bits); 4]) }
    }
    #[inline(always)]
    unsafe fn dots<const R: usize, const N: usize, const BITS: u32>(
        w: *const u8,
        x: *const i32,
        init: [i32; R],
    ) -> [I; R] {
        unsafe {
            let mut sums = [Self::splat_i32(0); R];
            for (sums, init) in sums.iter_mut().zip(init) {
                *sums = Self::splat_i32(init);
            }
            for g in 0..N {
                let w = Self::load_bytes(w.add(64 * g));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = vdupq_n_s32(x.add(8 * r + g).read());
                    for (sum, w) in sums.iter_mut().zip(w) {
                        *sum = dot4(*sum, w, x);
                    }
                }
            }
            sums
        }
    }
}
