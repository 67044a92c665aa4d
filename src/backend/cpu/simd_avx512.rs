//! AVX-512 with VNNI.

use super::simd::{Simd, Task, dots_by_group};
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
pub(super) struct Avx512;

/// Runs a task with the features of the path.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn run<T: Task>(task: T) {
    // SAFETY: the caller answers for the features.
    unsafe { task.run::<Avx512>() }
}

// SAFETY of the bodies: the trait's contract gives features and valid pointers.
impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;
    type W = __m512i;
    const BYTE_BIAS: u8 = 0x80;
    const SUMS: usize = 16;
    const HEADS: usize = 6;

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn prefetch_near(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn splat(v: f32) -> __m512 {
        unsafe { _mm512_set1_ps(v) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: __m512) {
        unsafe {
            let rounded = _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v);
            _mm256_storeu_si256(p.cast(), rounded);
        }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_halves(p: *const u8) -> [__m512; 2] {
        unsafe {
            let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()));
            // Below the exponent of a float whose last bit is worth 1, or 1/16.
            let float = |mask: i32, unit: f32| {
                let unit_bits = _mm512_set1_epi32(unit.to_bits() as i32);
                // (bytes & mask) | unit
                let bits =
                    _mm512_ternarylogic_epi32::<0xF8>(unit_bits, bytes, _mm512_set1_epi32(mask));
                _mm512_sub_ps(_mm512_castsi512_ps(bits), _mm512_set1_ps(unit + 8.0))
            };
            [float(0x0F, 8_388_608.0), float(0xF0, 524_288.0)]
        }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn pow2(n: __m512) -> __m512 {
        unsafe {
            let biased = _mm512_add_ps(n, _mm512_set1_ps(super::math::ROUNDER + 127.0));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(biased)))
        }
    }
    #[inline(always)]
    unsafe fn max_lane(v: __m512) -> f32 {
        unsafe { _mm512_reduce_max_ps(v) }
    }
    #[inline(always)]
    unsafe fn sum_in_part(v: [__m512; 4]) -> __m512 {
        unsafe {
            // Vectors of 8 sums per row: rows 0 and 2, then 1 and 3.
            let mut by8 = [_mm512_setzero_ps(); 2];
            for (i, to) in by8.iter_mut().enumerate() {
                let low = _mm512_shuffle_f32x4::<0b01_00_01_00>(v[i], v[i + 2]);
                let high = _mm512_shuffle_f32x4::<0b11_10_11_10>(v[i], v[i + 2]);
                *to = _mm512_add_ps(low, high);
            }
            let low = _mm512_shuffle_f32x4::<0b10_00_10_00>(by8[0], by8[1]);
            let high = _mm512_shuffle_f32x4::<0b11_01_11_01>(by8[0], by8[1]);
            _mm512_add_ps(low, high)
        }
    }
    #[inline(always)]
    unsafe fn sum_parts(by4: &[__m512; 4]) -> __m512 {
        unsafe {
            let mut by2 = [_mm512_setzero_ps(); 2];
            for (i, to) in by2.iter_mut().enumerate() {
                let (a, b) = (_mm512_castps_pd(by4[i]), _mm512_castps_pd(by4[i + 2]));
                let (low, high) = (_mm512_unpacklo_pd(a, b), _mm512_unpackhi_pd(a, b));
                *to = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
            }
            let low = _mm512_shuffle_ps::<0x88>(by2[0], by2[1]);
            let high = _mm512_shuffle_ps::<0xDD>(by2[0], by2[1]);
            let order = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
            _mm512_permutexvar_ps(order, _mm512_add_ps(low, high))
        }
    }
    #[inline(always)]
    unsafe fn splat_i32(v: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(v) }
    }
    #[inline(always)]
    unsafe fn to_f32(v: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(v) }
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, w: __m512i) {
        unsafe { _mm512_storeu_si512(p.cast(), w) }
    }
    #[inline(always)]
    unsafe fn field<const BY: i32>(w: __m512i, mask: u8) -> __m512i {
        unsafe {
            let by = _mm512_set1_epi32(BY.abs());
            let w = if BY < 0 { _mm512_sllv_epi32(w, by) } else { _mm512_srlv_epi32(w, by) };
            _mm512_and_si512(w, _mm512_set1_epi8(mask as i8))
        }
    }
    #[inline(always)]
    unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn flip(w: __m512i, bits: u8) -> __m512i {
        unsafe { _mm512_xor_si512(w, _mm512_set1_epi8(bits as i8)) }
    }
    #[inline(always)]
    unsafe fn dots<const R: usize, const N: usize, const BITS: u32>(
        w: *const u8,
        x: *const i32,
        init: [i32; R],
    ) -> [__m512i; R] {
        unsafe {
            let dot4 = |sum, w, x| _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(x));
            dots_by_group::<Self, R, N>(w, x, init, dot4)
        }
    }
}
