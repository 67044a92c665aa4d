//! Sixteen lanes, whatever the processor: the vector operations that kernels are written in.
//!
//! Every operation is exact or correctly rounded per lane and reductions have one fixed order, so a
//! kernel gives the same bits on every path.

use std::fmt;

/// Lanes of a vector; equals [`crate::quant::TILE_ROWS`].
pub(super) const LANES: usize = 16;

/// Instruction set the kernels run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimdPath {
    /// AVX-512 with integer dot products (F, BW, DQ, VL, VNNI).
    Avx512,
    /// AVX2, FMA and F16C, with integer dot products.
    AvxVnni,
    /// AVX2, FMA and F16C.
    Avx2,
    /// NEON with integer dot products.
    Neon,
    /// Plain Rust.
    Portable,
}

impl SimdPath {
    /// Every path, fastest first.
    pub const ALL: [SimdPath; 5] =
        [SimdPath::Avx512, SimdPath::AvxVnni, SimdPath::Avx2, SimdPath::Neon, SimdPath::Portable];

    /// Whether this processor can run the path.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            SimdPath::Avx512 => {
                SimdPath::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            SimdPath::AvxVnni => {
                SimdPath::Avx2.is_available() && is_x86_feature_detected!("avxvnni")
            }
            #[cfg(target_arch = "x86_64")]
            SimdPath::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(not(target_arch = "x86_64"))]
            SimdPath::Avx512 | SimdPath::AvxVnni | SimdPath::Avx2 => false,
            #[cfg(target_arch = "aarch64")]
            SimdPath::Neon => {
                std::arch::is_aarch64_feature_detected!("neon")
                    && std::arch::is_aarch64_feature_detected!("dotprod")
            }
            #[cfg(not(target_arch = "aarch64"))]
            SimdPath::Neon => false,
            SimdPath::Portable => true,
        }
    }

    /// The fastest available path.
    pub fn best() -> SimdPath {
        SimdPath::ALL.into_iter().find(|p| p.is_available()).unwrap_or(SimdPath::Portable)
    }
}

impl fmt::Display for SimdPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SimdPath::Avx512 => "AVX-512 VNNI",
            SimdPath::AvxVnni => "AVX-VNNI",
            SimdPath::Avx2 => "AVX2",
            SimdPath::Neon => "NEON",
            SimdPath::Portable => "portable",
        })
    }
}

/// Vector operations of one path.
///
/// # Safety
/// All functions need a processor with the path; pointers must be valid for what is named. They may
/// be unaligned.
pub(super) trait Simd: Copy + 'static {
    /// Sixteen f32.
    type F: Copy;
    /// Sixteen i32.
    type I: Copy;
    /// Four u8 in each lane.
    type W: Copy;
    /// Quants of 8 bits are stored as `q ^ BYTE_BIAS`: 0x80 where dot products want unsigned weights.
    const BYTE_BIAS: u8;
    /// Vectors of sums that stay in registers beside what is multiplied.
    const SUMS: usize;
    /// Query heads, up to 6, whose sums stay in registers beside keys or values: sixteen vectors each where
    /// [`Simd::SUMS`] has that many.
    const HEADS: usize;

    /// Asks the second-level cache for the line of an address, which need not be valid. The first level has
    /// too few misses under way at a time for the bandwidth of memory.
    unsafe fn prefetch(p: *const u8);
    /// Asks the first-level cache.
    unsafe fn prefetch_near(p: *const u8);
    unsafe fn splat(v: f32) -> Self::F;
    unsafe fn load(p: *const f32) -> Self::F;
    unsafe fn store(p: *mut f32, v: Self::F);
    /// Sixteen IEEE 16-bit floats.
    unsafe fn load_f16(p: *const u16) -> Self::F;
    /// Rounds to nearest, ties to even.
    unsafe fn store_f16(p: *mut u16, v: Self::F);
    /// Sixteen i8.
    unsafe fn load_i8(p: *const u8) -> Self::F;
    /// The low halves of sixteen bytes, and the high halves, less 8: -8 to 7.
    unsafe fn load_halves(p: *const u8) -> [Self::F; 2];
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a > b ? a : b`, so `b` if either is NaN.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// `a < b ? a : b`, so `b` if either is NaN.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `2^n` for whole `n` in -126..=127.
    unsafe fn pow2(n: Self::F) -> Self::F;
    /// The largest lane, if none is NaN.
    unsafe fn max_lane(v: Self::F) -> f32;
    /// Sums of four lanes of each row, of which [`Simd::sum_parts`] knows the places: lanes `j` and `j + 8`
    /// are added first, then those four apart.
    unsafe fn sum_in_part(rows: [Self::F; 4]) -> Self::F;
    /// Lane `i` of the result is the sum of row `i`: the fourth part of `parts[i % 4]`, which
    /// [`Simd::sum_in_part`] made of rows `i % 4`, and 4, 8 and 12 after it. Sums two apart are added first.
    unsafe fn sum_parts(parts: &[Self::F; 4]) -> Self::F;

    unsafe fn splat_i32(v: i32) -> Self::I;
    unsafe fn to_f32(v: Self::I) -> Self::F;
    /// 64 bytes.
    unsafe fn load_bytes(p: *const u8) -> Self::W;
    unsafe fn store_bytes(p: *mut u8, w: Self::W);
    /// 32-bit lanes shifted right (left if negative) by `BY`, then bytes masked.
    unsafe fn field<const BY: i32>(w: Self::W, mask: u8) -> Self::W;
    unsafe fn or(a: Self::W, b: Self::W) -> Self::W;
    /// Each byte with `bits` flipped.
    unsafe fn flip(w: Self::W, bits: u8) -> Self::W;
    /// For each row `r`, `init[r]` plus the sums over `N` groups of four columns of weights times `x`.
    /// Group `g` has 64 bytes at `w + 64 g`, which use `BITS` bits (all 8 with [`Simd::BYTE_BIAS`]); row
    /// `r` four i8 at `x + 8 r + g`. `R` is at most [`Simd::SUMS`].
    unsafe fn dots<const R: usize, const N: usize, const BITS: u32>(
        w: *const u8,
        x: *const i32,
        init: [i32; R],
    ) -> [Self::I; R];
}

/// Sum of the lanes, in the order of [`Simd::sum_parts`].
#[inline(always)]
pub(super) unsafe fn sum<S: Simd>(v: S::F) -> f32 {
    let mut lanes = [0.0f32; LANES];
    // SAFETY: the array has sixteen lanes.
    unsafe { S::store(lanes.as_mut_ptr(), v) };
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// [`Simd::dots`] where one operation adds the products of a group: `dot4` of sums, weights and x.
#[inline(always)]
pub(super) unsafe fn dots_by_group<S: Simd, const R: usize, const N: usize>(
    w: *const u8,
    x: *const i32,
    init: [i32; R],
    dot4: impl Fn(S::I, S::W, i32) -> S::I,
) -> [S::I; R] {
    // SAFETY: by the contract of `dots`.
    unsafe {
        let mut weights = [S::load_bytes(w); N];
        for (g, weights) in weights.iter_mut().enumerate() {
            *weights = S::load_bytes(w.add(g * 64));
        }
        let mut sums = [S::splat_i32(0); R];
        for (r, sum) in sums.iter_mut().enumerate() {
            *sum = S::splat_i32(init[r]);
            for (g, &w) in weights.iter().enumerate() {
                *sum = dot4(*sum, w, x.add(8 * r + g).read());
            }
        }
        sums
    }
}

/// Work that is compiled once per path.
pub(super) trait Task {
    /// Runs on `S`; must be `#[inline(always)]`.
    ///
    /// # Safety
    /// The processor must have the path.
    unsafe fn run<S: Simd>(self);
}

/// Runs a task on a path.
///
/// # Safety
/// The path must be available.
pub(super) unsafe fn dispatch<T: Task>(path: SimdPath, task: T) {
    // SAFETY: the caller answers for the path.
    unsafe {
        match path {
            #[cfg(target_arch = "x86_64")]
            SimdPath::Avx512 => super::simd_avx512::run(task),
            #[cfg(target_arch = "x86_64")]
            SimdPath::AvxVnni => super::simd_avx2::run_vnni(task),
            #[cfg(target_arch = "x86_64")]
            SimdPath::Avx2 => super::simd_avx2::run(task),
            #[cfg(target_arch = "aarch64")]
            SimdPath::Neon => super::simd_neon::run(task),
            _ => task.run::<super::simd_portable::Portable>(),
        }
    }
}
