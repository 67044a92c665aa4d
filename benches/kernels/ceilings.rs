//! What this machine can do at most: each thread runs a loop of nothing but loads, or of nothing but the
//! instruction that does the work.

use std::hint::black_box;
use std::time::Instant;

/// Bytes that are read per thread: more than caches hold.
const STREAM_BYTES: usize = 128 << 20;

/// Runs of each loop, of which the best counts.
const RUNS: usize = 12;

/// Ceilings of all threads together.
pub(super) struct Ceilings {
    /// Bytes per second read from memory.
    pub(super) stream: f64,
    /// Operations per second on 8-bit integers.
    pub(super) int8: f64,
    /// Operations per second on f32.
    pub(super) f32: f64,
}

impl Ceilings {
    /// The better of both: neighbours come and go, and the machine is what it is.
    pub(super) fn or(self, other: Ceilings) -> Ceilings {
        Ceilings {
            stream: self.stream.max(other.stream),
            int8: self.int8.max(other.int8),
            f32: self.f32.max(other.f32),
        }
    }

    /// Name, Gop/s and GB/s of each, empty where it has none.
    pub(super) fn rows(&self) -> [(&'static str, String, String); 3] {
        let giga = |value: f64| format!("{:.1}", value / 1e9);
        [
            ("stream", String::new(), giga(self.stream)),
            ("int8", giga(self.int8), String::new()),
            ("f32", giga(self.f32), String::new()),
        ]
    }

    pub(super) fn measure(threads: usize) -> Ceilings {
        let data = vec![1u64; STREAM_BYTES / 8];
        Ceilings {
            stream: together(threads, || read(&data)),
            int8: together(threads, int8),
            f32: together(threads, floats),
        }
    }
}

/// Amount per second of `work`, which returns its amount, on so many threads at once.
fn together(threads: usize, work: impl Fn() -> f64 + Sync) -> f64 {
    let once = || {
        let start = Instant::now();
        let amount: f64 = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(&work)).collect();
            workers.into_iter().map(|worker| worker.join().expect("a worker")).sum()
        });
        amount / start.elapsed().as_secs_f64()
    };
    (0..RUNS).map(|_| once()).fold(0.0, f64::max)
}

/// Reads all bytes.
fn read(data: &[u64]) -> f64 {
    let mut sums = [0u64; 16];
    for chunk in black_box(data).as_chunks::<16>().0 {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum ^= value;
        }
    }
    black_box(sums);
    size_of_val(data) as f64
}

/// Steps of a compute loop, and independent sums in it: enough to hide the latency of an instruction.
#[cfg(target_arch = "x86_64")]
const STEPS: usize = 3_000_000;
#[cfg(target_arch = "x86_64")]
const SUMS: usize = 12;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{STEPS, SUMS, black_box};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn int8_vnni() -> f64 {
        let mut sums = [_mm512_setzero_si512(); SUMS];
        let (w, x) = (_mm512_set1_epi8(black_box(3)), _mm512_set1_epi8(black_box(5)));
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, w, x);
            }
        }
        black_box(sums);
        (STEPS * SUMS * 128) as f64
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn int8_avx2() -> f64 {
        let mut sums = [_mm256_setzero_si256(); SUMS];
        let mut w = _mm256_set1_epi8(black_box(3));
        let x = _mm256_set1_epi8(black_box(5));
        for _ in 0..STEPS {
            for sum in &mut sums {
                // Hidden from the compiler, which would multiply once for all.
                w = black_box_register(w);
                *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(w, x));
            }
        }
        black_box(sums);
        (STEPS * SUMS * 64) as f64
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn black_box_register(mut w: __m256i) -> __m256i {
        // SAFETY: nothing is done.
        unsafe { std::arch::asm!("/* {0} */", inout(ymm_reg) w, options(nomem, nostack)) };
        w
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn f32_avx512() -> f64 {
        let mut sums = [_mm512_setzero_ps(); SUMS];
        let (a, b) = (_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(0.25)));
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
        (STEPS * SUMS * 32) as f64
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn f32_avx2() -> f64 {
        let mut sums = [_mm256_setzero_ps(); SUMS];
        let (a, b) = (_mm256_set1_ps(black_box(0.5)), _mm256_set1_ps(black_box(0.25)));
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
        (STEPS * SUMS * 16) as f64
    }
}

#[cfg(target_arch = "x86_64")]
fn int8() -> f64 {
    // SAFETY: the processor was asked.
    unsafe {
        if is_x86_feature_detected!("avx512vnni") {
            x86::int8_vnni()
        } else if is_x86_feature_detected!("avx2") {
            x86::int8_avx2()
        } else {
            f64::NAN
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn floats() -> f64 {
    // SAFETY: the processor was asked.
    unsafe {
        if is_x86_feature_detected!("avx512f") {
            x86::f32_avx512()
        } else if is_x86_feature_detected!("fma") {
            x86::f32_avx2()
        } else {
            f64::NAN
        }
    }
}

/// Not known for this processor.
#[cfg(not(target_arch = "x86_64"))]
fn int8() -> f64 {
    f64::NAN
}

/// Not known for this processor.
#[cfg(not(target_arch = "x86_64"))]
fn floats() -> f64 {
    f64::NAN
}
