//! Threads that make pipelines beside everything else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

/// Drivers take memory for each pipeline that they are at.
const THREADS: usize = 2;

type Job = Box<dyn FnOnce() + Send>;

/// Does jobs in their order; what has not begun when it is dropped is left undone.
pub(super) struct Builder {
    jobs: Option<Sender<Job>>,
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Builder {
    pub(super) fn start() -> Builder {
        let (jobs, queue) = channel();
        let (queue, ended) = (Arc::new(Mutex::new(queue)), Arc::new(AtomicBool::new(false)));
        let thread = |index: usize| {
            let (queue, ended) = (Arc::clone(&queue), Arc::clone(&ended));
            let named = std::thread::Builder::new().name(format!("kernels-{index}"));
            named.spawn(move || work(&queue, &ended)).ok()
        };
        // Without a thread pipelines are made when they are first used.
        let threads = (0..THREADS).filter_map(thread).collect();
        Builder { jobs: Some(jobs), ended, threads }
    }

    pub(super) fn begin(&self, job: impl FnOnce() + Send + 'static) {
        if let Some(jobs) = &self.jobs {
            // Nobody is there to do it: see above.
            let _ = jobs.send(Box::new(job));
        }
    }
}

fn work(queue: &Mutex<Receiver<Job>>, ended: &AtomicBool) {
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok();
    while let Some(job) = next() {
        if ended.load(Ordering::Relaxed) {
            return;
        }
        job();
    }
}

impl Drop for Builder {
    /// Waits for what a driver is at: a process that ends meanwhile may crash.
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn jobs_are_done_or_left_but_never_cut_off() {
        let (begun, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let builder = Builder::start();
        for _ in 0..50 {
            let (begun, done) = (Arc::clone(&begun), Arc::clone(&done));
            builder.begin(move || {
                begun.fetch_add(1, Ordering::SeqCst);
                std::thread::yield_now();
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        while done.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        drop(builder);
        assert_eq!(begun.load(Ordering::SeqCst), done.load(Ordering::SeqCst));
    }
}
