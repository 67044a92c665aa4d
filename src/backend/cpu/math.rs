//! Exponentials, the same bits on every path.

use super::simd::Simd;

/// 1.5 * 2^23: adding it rounds an f32 to a whole number (ties to even) in the low mantissa bits.
pub(super) const ROUNDER: f32 = 12_582_912.0;

/// Coefficients of `(e^r - 1 - r) / r^2` on `|r| <= ln(2) / 2`, highest first (Cephes expf).
const POLYNOMIAL: [f32; 6] =
    [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];

/// `e^x` to within 2 units in the last place; `x` is clamped to -87..=88, NaN stays NaN, and `e^0`
/// is exactly 1.
#[inline(always)]
pub(super) unsafe fn exp<S: Simd>(x: S::F) -> S::F {
    // SAFETY: arithmetic only; the caller answers for the path.
    unsafe {
        let x = S::min(S::splat(88.0), S::max(S::splat(-87.0), x));
        let rounder = S::splat(ROUNDER);
        let n = S::sub(S::fma(x, S::splat(std::f32::consts::LOG2_E), rounder), rounder);
        // ln(2) in two parts: the first has few bits, so that its product with n is exact.
        let r = S::fma(n, S::splat(-0.693_359_4), x);
        let r = S::fma(n, S::splat(2.121_944_4e-4), r);
        let mut y = S::splat(POLYNOMIAL[0]);
        for c in &POLYNOMIAL[1..] {
            y = S::fma(y, r, S::splat(*c));
        }
        let y = S::fma(y, S::mul(r, r), r);
        S::mul(S::add(y, S::splat(1.0)), S::pow2(n))
    }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(super) unsafe fn sigmoid<S: Simd>(x: S::F) -> S::F {
    // SAFETY: as above.
    unsafe {
        let one = S::splat(1.0);
        S::div(one, S::add(one, exp::<S>(S::sub(S::splat(0.0), x))))
    }
}

#[cfg(test)]
mod tests {
    use super::super::simd::{LANES, SimdPath, Task, dispatch};
    use super::*;

    struct Exp<'a>(&'a mut [f32; LANES]);

    impl Task for Exp<'_> {
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            unsafe { S::store(self.0.as_mut_ptr(), exp::<S>(S::load(self.0.as_ptr()))) }
        }
    }

    #[test]
    fn exp_is_close_and_the_same_on_every_path() {
        for step in 0..20_000 {
            let x = -87.0 + step as f32 * (174.9 / 20_000.0);
            let all = SimdPath::ALL.into_iter().filter(|p| p.is_available()).map(|path| {
                let mut lanes = [x; LANES];
                unsafe { dispatch(path, Exp(&mut lanes)) };
                lanes[5]
            });
            let all: Vec<f32> = all.collect();
            assert!(all.iter().all(|y| y.to_bits() == all[0].to_bits()), "e^{x}: {all:?}");
            let error = (f64::from(all[0]) / f64::from(x).exp() - 1.0).abs();
            assert!(error < 3e-7, "e^{x} is {} (off by {error})", all[0]);
        }
        let mut zero = [0.0; LANES];
        unsafe { dispatch(SimdPath::best(), Exp(&mut zero)) };
        assert_eq!(zero[0], 1.0);
    }
}
