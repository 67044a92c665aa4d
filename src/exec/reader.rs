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

/// Reader threads; jobs are taken in order.
pub(super) struct Reader {
    jobs: Option<Sender<Job>>,
    done: Receiver<Done>,
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
                    if report.send(Done { number: job.number, read, times }).is_err() {
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

    /// Waits for any read to end. `None` if the threads are gone.
    pub(super) fn next(&self) -> Option<Done> {
        self.done.recv().ok()
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
