//! A slower disk or bus than this machine's, for reproducible ratios.

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long an unused rate is kept for later: enough to make up for sleeps that end late.
const CREDIT: Duration = Duration::from_millis(5);

/// A token bucket, shared by all who use a tier; they are served in the order in which they come.
///
/// It is kept as the time at which the tier is free again, so a transfer larger than the bucket is
/// nothing special (the generic cell rate algorithm, ITU-T I.371).
#[derive(Debug)]
pub struct Throttle {
    bytes_per_sec: u64,
    free_at: Mutex<Instant>,
}

impl Throttle {
    /// A tier that moves `bytes_per_sec` (at least 1).
    pub fn new(bytes_per_sec: u64) -> Throttle {
        let bytes_per_sec = bytes_per_sec.max(1);
        Throttle { bytes_per_sec, free_at: Mutex::new(Instant::now()) }
    }

    /// The rate.
    pub fn bytes_per_sec(&self) -> u64 {
        self.bytes_per_sec
    }

    /// Runs `transfer`, which moves `bytes`, and sleeps until a tier of this rate would be done.
    ///
    /// The time that the transfer itself takes counts: a device slower than the rate is not slowed.
    pub fn pace<T>(&self, bytes: u64, transfer: impl FnOnce() -> T) -> T {
        let due = self.reserve(bytes);
        let done = transfer();
        thread::sleep(due.saturating_duration_since(Instant::now()));
        done
    }

    /// Takes the next turn of `bytes`; returns when it ends.
    fn reserve(&self, bytes: u64) -> Instant {
        let now = Instant::now();
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_sec as f64);
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        *free_at = (*free_at).max(now.checked_sub(CREDIT).unwrap_or(now)) + cost;
        *free_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    /// Seconds that `pieces` transfers of `bytes` take.
    fn seconds(throttle: &Throttle, pieces: usize, bytes: u64) -> f64 {
        let start = Instant::now();
        (0..pieces).for_each(|_| throttle.pace(bytes, || ()));
        start.elapsed().as_secs_f64()
    }

    /// Small pieces, and pieces far larger than what the bucket holds, take no less than their bytes.
    #[test]
    fn a_rate_is_not_exceeded() {
        for (pieces, bytes) in [(500, 20_000), (2, 5_000_000)] {
            let throttle = Throttle::new(100_000_000);
            let took = seconds(&throttle, pieces, bytes);
            let least = pieces as f64 * bytes as f64 / 1e8 - CREDIT.as_secs_f64();
            assert!(took >= least, "{took} < {least} s");
        }
    }

    /// What was not used long ago cannot be used now.
    #[test]
    fn idle_time_is_not_saved() {
        let throttle = Throttle::new(1_000_000);
        thread::sleep(Duration::from_millis(60));
        assert!(seconds(&throttle, 1, 50_000) >= 0.045);
    }

    /// The time of the transfer is part of its turn.
    #[test]
    fn a_slow_transfer_is_not_slowed() {
        let throttle = Throttle::new(1_000);
        let start = Instant::now();
        throttle.pace(500, || thread::sleep(Duration::from_millis(600)));
        assert!(start.elapsed() < Duration::from_millis(1050), "{:?}", start.elapsed());
    }

    /// Threads get the same number of turns, whoever came first.
    #[test]
    fn turns_are_shared() {
        let throttle = Throttle::new(200_000_000);
        let (turns, stop) = ([const { AtomicU64::new(0) }; 4], AtomicBool::new(false));
        let start = Instant::now();
        thread::scope(|scope| {
            for mine in &turns {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        throttle.pace(1_000_000, || ());
                        mine.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            thread::sleep(Duration::from_millis(400));
            stop.store(true, Ordering::Relaxed);
        });
        let seconds = start.elapsed().as_secs_f64();
        let turns: Vec<u64> = turns.iter().map(|t| t.load(Ordering::Relaxed)).collect();
        let (least, most) = (turns.iter().min().unwrap(), turns.iter().max().unwrap());
        assert!(*most <= 3 * least + 4 && *least > 0, "{turns:?}");
        assert!(turns.iter().sum::<u64>() as f64 <= seconds * 200.0 + 5.0, "{turns:?}");
    }
}
