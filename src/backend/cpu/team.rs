//! Threads that walk a list of phases together.

use crate::backend::DeviceError;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Spins on an unfinished phase before the core is offered to someone else.
const SPINS: usize = 2000;

/// A thread takes what is left, divided by this and the number of threads: one that is held up holds little.
pub(super) const PARTS: usize = 4;

/// Independent units of work; a phase starts when the one before it is complete.
#[repr(align(128))]
pub(super) struct Phase {
    units: usize,
    least: usize,
    next: AtomicUsize,
    done: AtomicUsize,
}

impl Phase {
    /// `units` of work, of which at least `least` are taken at a time, if there are as many.
    pub(super) fn new(units: usize, least: usize) -> Phase {
        Phase { units, least: least.max(1), next: AtomicUsize::new(0), done: AtomicUsize::new(0) }
    }

    /// The next units for one of `threads`: a part of what is left, so that neighbours stay together and
    /// all end together (guided self-scheduling).
    fn take(&self, threads: usize) -> Option<Range<usize>> {
        let step = |first: usize| {
            let left = self.units - first;
            left.min(self.least.max(left / (PARTS * threads)))
        };
        let taken = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |first| {
            (first < self.units).then(|| first + step(first))
        });
        taken.ok().map(|first| first..first + step(first))
    }
}

/// Runs units of one phase: `(phase, worker, units)`.
pub(super) type Work<'a> = &'a (dyn Fn(usize, usize, Range<usize>) + Sync);

/// The calling thread and its helpers.
pub(super) struct Team {
    helpers: Option<rayon::ThreadPool>,
    threads: usize,
}

impl Team {
    pub(super) fn new(threads: usize) -> Result<Team, DeviceError> {
        let helpers = match threads {
            1 => None,
            _ => Some(
                rayon::ThreadPoolBuilder::new()
                    .num_threads(threads - 1)
                    .thread_name(|i| format!("cpu-{}", i + 1))
                    .build()
                    .map_err(|e| DeviceError::Unavailable(format!("{threads} threads: {e}")))?,
            ),
        };
        Ok(Team { helpers, threads })
    }

    pub(super) fn threads(&self) -> usize {
        self.threads
    }

    /// Walks the phases, with the helpers if `together`.
    ///
    /// A phase is complete when its units are, not when every helper has shown up: a helper that the
    /// system has not scheduled delays no phase, only the end of the last one.
    pub(super) fn run(&self, phases: &[Phase], together: bool, work: Work) {
        let failed = AtomicBool::new(false);
        match &self.helpers {
            Some(helpers) if together => helpers.in_place_scope(|scope| {
                for worker in 1..self.threads {
                    let failed = &failed;
                    scope.spawn(move |_| walk(phases, (worker, self.threads), failed, work));
                }
                walk(phases, (0, self.threads), &failed, work);
            }),
            _ => walk(phases, (0, 1), &failed, work),
        }
    }
}

/// Tells the others when its thread panics, so that they do not wait for ever.
struct Alarm<'a>(&'a AtomicBool);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

fn walk(phases: &[Phase], (worker, threads): (usize, usize), failed: &AtomicBool, work: Work) {
    let _alarm = Alarm(failed);
    for (index, phase) in phases.iter().enumerate() {
        while let Some(units) = phase.take(threads) {
            let count = units.len();
            work(index, worker, units);
            phase.done.fetch_add(count, Ordering::Release);
        }
        let mut spins = 0;
        while phase.done.load(Ordering::Acquire) < phase.units {
            if failed.load(Ordering::Relaxed) {
                return;
            }
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_runs_once_and_phases_in_order() {
        let team = Team::new(3).unwrap();
        let phases = [Phase::new(100, 7), Phase::new(0, 1), Phase::new(50, 1)];
        let counts: Vec<AtomicUsize> = (0..150).map(|_| AtomicUsize::new(0)).collect();
        team.run(&phases, true, &|phase, _, units| {
            for unit in units {
                if phase == 2 {
                    assert!(counts[..100].iter().all(|c| c.load(Ordering::Relaxed) == 1));
                }
                counts[if phase == 2 { 100 + unit } else { unit }].fetch_add(1, Ordering::Relaxed);
            }
        });
        assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
    }

    #[test]
    fn a_panic_reaches_the_caller() {
        let team = Team::new(2).unwrap();
        let phases = [Phase::new(10, 1), Phase::new(10, 1)];
        let run = || team.run(&phases, true, &|_, _, units| assert!(units.start != 5));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
    }
}
