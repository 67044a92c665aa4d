//! Threads that read streams while the device computes.

use crate::model::TensorId;
use crate::store::{StoreError, WeightSource};
use crossbeam::channel::{Receiver, Sender, unbounded};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

/// Memory that a read fills.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a target is handed to one reader at a time; the schedule keeps everybody else away from its
// bytes until the read is done (`schedule::check` proves it).
unsafe impl Send for Target {}

impl Target {
    pub(super) fn new(start: NonNull<u8>, bytes: usize) -> Target {
        Target { start, bytes }
    }

    /// All of a buffer.
    pub(super) fn of(buffer: &mut [u8]) -> Target {
        Target { bytes: buffer.len(), start: NonNull::from(buffer).cast() }
    }

    /// The part of `bytes` bytes from `offset` on.
    pub(super) fn part(self, offset: usize, bytes: usize) -> Target {
        assert!(offset + bytes <= self.bytes, "a stream lies within its ring");
        // SAFETY: within the target.
        Target { start: unsafe { self.start.add(offset) }, bytes }
    }

    /// # Safety
    /// Nobody else touches these bytes while the slice lives, and their memory outlives it.
    pub(super) unsafe fn bytes<'a>(self) -> &'a mut [u8] {
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

/// One read.
pub(super) struct Job {
    /// Its number among all reads, over all passes.
    pub(super) number: usize,
    /// The matrix.
    pub(super) tensor: TensorId,
    /// Which of its segments.
    pub(super) index: usize,
    /// Where the bytes go.
    pub(super) target: Target,
}

/// A read that ended.
pub(super) struct Done {
    pub(super) number: usize,
    pub(super) read: Result<(), StoreError>,
    /// When it began and ended.
    pub(super) times: (Instant, Instant),
}

/// Says so when its thread panics, so that nobody waits for ever for what it was reading.
struct Alarm<'a>(&'a Sender<Option<Done>>);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Nobody waits any more where that fails.
            let _ = self.0.send(None);
        }
    }
}

/// Reader threads; jobs are taken in order.
pub(super) struct Reader {
    jobs: Option<Sender<Job>>,
    /// What ended; `None` where a thread did.
    done: Receiver<Option<Done>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Reader {
    /// Starts `count` threads that read from `source`.
    pub(super) fn start(source: &Arc<dyn WeightSource>, count: usize) -> std::io::Result<Reader> {
        let (jobs, queue) = unbounded::<Job>();
        let (report, done) = unbounded();
        let stop = Arc::new(AtomicBool::new(false));
        let mut reader = Reader { jobs: Some(jobs), done, stop, threads: Vec::new() };
        for index in 0..count {
            let (source, queue, report) = (Arc::clone(source), queue.clone(), report.clone());
            let stop = Arc::clone(&reader.stop);
            let work = move || {
                let _alarm = Alarm(&report);
                while let Ok(job) = queue.recv() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    // SAFETY: the schedule keeps others away, and `Reader` is dropped (its threads
                    // joined) before the memory is.
                    let out = unsafe { job.target.bytes() };
                    let start = Instant::now();
                    let read = source.read_segment(job.tensor, job.index, out);
                    let times = (start, Instant::now());
                    let done = Done { number: job.number, read, times };
                    if report.send(Some(done)).is_err() {
                        return;
                    }
                }
            };
            let named = std::thread::Builder::new().name(format!("read-{index}"));
            reader.threads.push(named.spawn(work)?);
        }
        Ok(reader)
    }

    /// Queues a read.
    pub(super) fn read(&self, job: Job) {
        // The threads live as long as this side of the channel.
        let _ = self.jobs.as_ref().map(|jobs| jobs.send(job));
    }

    /// Waits for any read to end. `None` if a thread is gone: what it was reading will not come.
    pub(super) fn next(&self) -> Option<Done> {
        self.done.recv().ok().flatten()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A reader that panicked has said so.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Role;

    /// Panics over segment 0 and leaves all others as they are.
    struct Bad;

    impl WeightSource for Bad {
        fn read_segment(&self, _: TensorId, index: usize, _: &mut [u8]) -> Result<(), StoreError> {
            assert!(index > 0, "meant to happen");
            Ok(())
        }
    }

    /// Others that live on do not hide that one is gone.
    #[test]
    fn a_reader_that_panics_is_told_of() {
        let source: Arc<dyn WeightSource> = Arc::new(Bad);
        let mut bytes = [0; 8];
        let target = Target::of(&mut bytes);
        let reader = Reader::start(&source, 3).unwrap();
        let read = |number, index| {
            let tensor = TensorId::global(Role::Embedding);
            reader.read(Job { number, tensor, index, target: target.part(number, 1) });
        };
        read(0, 1);
        assert!(reader.next().is_some_and(|done| done.number == 0 && done.read.is_ok()));
        read(1, 0);
        assert!(reader.next().is_none());
    }
}
