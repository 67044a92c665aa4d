//! AVX2, FMA and F16C: pairs of eight lanes; with or without integer dot products (AVX-VNNI).

use super::simd::{Simd, Task};
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
pub(super) struct Avx2<const VNNI: bool>;

/// Runs a task with the features of the path.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<T: Task>(task: T) {
    // SAFETY: the caller answers for the features.
    unsafe { task.run::<Avx2<false>>() }
}

/// Runs a task with AVX-VNNI besides.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(super) unsafe fn run_vnni<T: Task>(task: T) {
    // SAFETY: the caller answers for the features.
    unsafe { task.run::<Avx2<true>>() }
}

type F = [__m256; 2];
type I = [__m256i; 2];

// SAFETY of the bodies: the trait's contract gives features and valid pointers.
impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type F = F;
    type I = I;
    type W = I;
    const BYTE_BIAS: u8 = if VNNI { 0x80 } else { 0 };
    const SUMS: usize = 4;
    const HEADS: usize = 4;

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn prefetch_near(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn splat(v: f32) -> F {
        unsafe { [_mm256_set1_ps(v); 2] }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: F) {
        unsafe {
            _mm256_storeu_ps(p, v[0]);
            _mm256_storeu_ps(p.add(8), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> F {
        unsafe {
            let half = |at: usize| _mm256_cvtph_ps(_mm_loadu_si128(p.add(at).cast()));
            [half(0), half(8)]
        }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: F) {
        unsafe {
            for (i, v) in v.into_iter().enumerate() {
                let rounded = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v);
                _mm_storeu_si128(p.add(8 * i).cast(), rounded);
            }
        }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> F {
        unsafe {
            let half = |at: usize| {
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.add(at).cast())))
            };
            [half(0), half(8)]
        }
    }
    #[inline(always)]
    unsafe fn load_halves(p: *const u8) -> [F; 2] {
        unsafe {
            let bytes = |at: usize| _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.add(at).cast()));
            let (near, far, mask) = (bytes(0), bytes(8), _mm256_set1_epi32(15));
            let less = |code| _mm256_cvtepi32_ps(_mm256_sub_epi32(code, _mm256_set1_epi32(8)));
            let low = |bytes| less(_mm256_and_si256(bytes, mask));
            let high = |bytes| less(_mm256_srli_epi32::<4>(bytes));
            [[low(near), low(far)], [high(near), high(far)]]
        }
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        unsafe { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        unsafe { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }
    #[inline(always)]
    unsafe fn pow2(n: F) -> F {
        unsafe {
            let rounder = _mm256_set1_ps(super::math::ROUNDER + 127.0);
            let pow2 = |n: __m256| {
                let biased = _mm256_castps_si256(_mm256_add_ps(n, rounder));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
            };
            [pow2(n[0]), pow2(n[1])]
        }
    }
    #[inline(always)]
    unsafe fn max_lane(v: F) -> f32 {
        unsafe {
            let by8 = _mm256_max_ps(v[0], v[1]);
            let by4 = _mm_max_ps(_mm256_castps256_ps128(by8), _mm256_extractf128_ps::<1>(by8));
            let by2 = _mm_max_ps(by4, _mm_movehl_ps(by4, by4));
            _mm_cvtss_f32(_mm_max_ss(by2, _mm_shuffle_ps::<1>(by2, by2)))
        }
    }
    #[inline(always)]
    unsafe fn sum_in_part(v: [F; 4]) -> F {
        unsafe {
            // Rows 0 and 2, then 1 and 3.
            let mut by4 = [_mm256_setzero_ps(); 2];
            for (i, to) in by4.iter_mut().enumerate() {
                let a = _mm256_add_ps(v[i][0], v[i][1]);
                let b = _mm256_add_ps(v[i + 2][0], v[i + 2][1]);
                let low = _mm256_permute2f128_ps::<0x20>(a, b);
                *to = _mm256_add_ps(low, _mm256_permute2f128_ps::<0x31>(a, b));
            }
            by4
        }
    }
    #[inline(always)]
    unsafe fn sum_parts(by4: &[F; 4]) -> F {
        unsafe {
            let mut by2 = [_mm256_setzero_ps(); 4];
            for (to, [a, b]) in by2.iter_mut().zip(by4) {
                let (a, b) = (_mm256_castps_pd(*a), _mm256_castps_pd(*b));
                let (low, high) = (_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b));
                *to = _mm256_add_ps(_mm256_castpd_ps(low), _mm256_castpd_ps(high));
            }
            // Rows 0 4 2 6 | 8 12 10 14, and the same plus one.
            let mut by1 = [_mm256_setzero_ps(); 2];
            for (i, to) in by1.iter_mut().enumerate() {
                let low = _mm256_shuffle_ps::<0x88>(by2[i], by2[i + 2]);
                *to = _mm256_add_ps(low, _mm256_shuffle_ps::<0xDD>(by2[i], by2[i + 2]));
            }
            let even = _mm256_castps_pd(_mm256_unpacklo_ps(by1[0], by1[1]));
            let odd = _mm256_castps_pd(_mm256_unpackhi_ps(by1[0], by1[1]));
            let low = _mm256_castpd_ps(_mm256_unpacklo_pd(even, odd));
            let high = _mm256_castpd_ps(_mm256_unpackhi_pd(even, odd));
            [_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high)]
        }
    }
    #[inline(always)]
    unsafe fn splat_i32(v: i32) -> I {
        unsafe { [_mm256_set1_epi32(v); 2] }
    }
    #[inline(always)]
    unsafe fn to_f32(v: I) -> F {
        unsafe { [_mm256_cvtepi32_ps(v[0]), _mm256_cvtepi32_ps(v[1])] }
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> I {
        unsafe { [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())] }
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, w: I) {
        unsafe {
            _mm256_storeu_si256(p.cast(), w[0]);
            _mm256_storeu_si256(p.add(32).cast(), w[1]);
        }
    }
    #[inline(always)]
    unsafe fn field<const BY: i32>(w: I, mask: u8) -> I {
        unsafe {
            let (by, mask) = (_mm256_set1_epi32(BY.abs()), _mm256_set1_epi8(mask as i8));
            let mut out = w;
            for w in &mut out {
                let moved =
                    if BY < 0 { _mm256_sllv_epi32(*w, by) } else { _mm256_srlv_epi32(*w, by) };
                *w = _mm256_and_si256(moved, mask);
            }
            out
        }
    }
    #[inline(always)]
    unsafe fn or(a: I, b: I) -> I {
        unsafe { [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn flip(w: I, bits: u8) -> I {
        unsafe {
            let bits = _mm256_set1_epi8(bits as i8);
            [_mm256_xor_si256(w[0], bits), _mm256_xor_si256(w[1], bits)]
        }
    }
    #[inline(always)]
    unsafe fn dots<const R: usize, const N: usize, const BITS: u32>(
        w: *const u8,
        x: *const i32,
        init: [i32; R],
    ) -> [I; R] {
        unsafe {
            let mut sums = [[_mm256_setzero_si256(); 2]; R];
            for (sums, init) in sums.iter_mut().zip(init) {
                *sums = [_mm256_set1_epi32(init); 2];
            }
            if VNNI {
                add_fours::<R, N>(w, x, &mut sums);
            } else {
                add_pairs::<R, N, BITS>(w, x, &mut sums);
            }
            sums
        }
    }
}

/// Adds the products of `N` groups, four at a time.
#[inline(always)]
unsafe fn add_fours<const R: usize, const N: usize>(
    w: *const u8,
    x: *const i32,
    sums: &mut [I; R],
) {
    // SAFETY: by the contract of `dots`.
    unsafe {
        for g in 0..N {
            let w = Avx2::<true>::load_bytes(w.add(64 * g));
            for (r, sums) in sums.iter_mut().enumerate() {
                let x = _mm256_set1_epi32(x.add(8 * r + g).read());
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum = _mm256_dpbusd_avx_epi32(*sum, w, x);
                }
            }
        }
    }
}

/// The same without such an instruction. Pairs of products add up in 16 bits as long as they cannot
/// overflow: x stays within 127, so that eight groups of 4-bit weights do (30480), four of 5 bits (31496),
/// two of 6 bits (32004). Products of 8-bit weights would overflow as unsigned; with the sign moved to x
/// two fit.
#[inline(always)]
unsafe fn add_pairs<const R: usize, const N: usize, const BITS: u32>(
    w: *const u8,
    x: *const i32,
    sums: &mut [I; R],
) {
    let groups = match BITS {
        4 => 8,
        5 => 4,
        6 => 2,
        _ => 1,
    };
    // SAFETY: by the contract of `dots`.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        for start in (0..N).step_by(groups) {
            let mut pairs = [[_mm256_setzero_si256(); 2]; R];
            for g in start..N.min(start + groups) {
                let w = Avx2::<false>::load_bytes(w.add(64 * g));
                for (r, pairs) in pairs.iter_mut().enumerate() {
                    let x = _mm256_set1_epi32(x.add(8 * r + g).read());
                    for (pairs, w) in pairs.iter_mut().zip(w) {
                        let product = if BITS == 8 {
                            _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
                        } else {
                            _mm256_maddubs_epi16(w, x)
                        };
                        *pairs = _mm256_add_epi16(*pairs, product);
                    }
                }
            }
            for (sums, pairs) in sums.iter_mut().zip(pairs) {
                for (sum, pairs) in sums.iter_mut().zip(pairs) {
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
                }
            }
        }
    }
}
