//! Cache pages that do not live on the device: brought into a window for a micro-batch's turn, and
//! back to where they live after it.
//!
//! There are two windows, so that the pages of the next turn come while those of this one are used. One
//! thread moves pages between the windows and their homes, in the order in which it is asked: a page
//! that is loaded after it was stored has what was stored.

use super::ExecError;
use super::executor::POISON;
use super::reader::Target;
use crate::backend::{Device, Fetch};
use crate::kernel::Buffer;
use crate::quant::IO_ALIGN;
use crate::schedule::Batch;
use crate::store::{AlignedBuffer, SpillFile, StoreError, checksum};
use crossbeam::channel::{Receiver, Sender, unbounded};
use forebay_planner::{Split, Windows};
use std::sync::Arc;
use std::thread::JoinHandle;

/// Bytes of the buffer through which pages go to and from a file.
const BOUNCE_BYTES: usize = 1 << 20;

/// Where the pages of the layers that are not on the device live.
pub(super) enum Home {
    /// All pages of a layer, in RAM.
    Ram(AlignedBuffer),
    /// From byte `first` of the spill file on; pages are padded to the file's alignment.
    File {
        /// Where page 0 lies.
        first: u64,
        /// Checksum of each page; 0 where nothing was written yet.
        sums: Vec<u64>,
    },
}

/// What a turn is about: a layer, its page size, and its window.
struct Turn {
    layer: usize,
    window: usize,
    /// Pages of the window, by their number in the layer's cache.
    pages: Vec<u32>,
    /// Those that the turn writes to.
    written: Vec<u32>,
    /// Whether the load was asked for.
    loading: bool,
}

/// A turn whose pages are on their way from the device.
struct Leaving {
    turn: Turn,
    /// Places in the window of the pages written, in the order of the fetch.
    places: Vec<usize>,
    fetch: Fetch,
}

/// Moves bytes between a window and a home.
struct Job {
    layer: usize,
    target: Target,
    /// (page of the layer's cache, its place in the window).
    pages: Vec<(u32, usize)>,
    store: bool,
    poison: bool,
}

/// See the module.
pub(super) struct Pager {
    page_bytes: Vec<usize>,
    windows: [Buffer; 2],
    /// Where the thread reads and writes: the windows themselves, or memory beside them from which the
    /// device is written.
    targets: [Target; 2],
    _staging: Vec<AlignedBuffer>,
    shares_ram: bool,
    /// Turns loaded or about to be, oldest first: at most two.
    turns: Vec<Turn>,
    leaving: Option<Leaving>,
    next_window: usize,
    jobs: Option<Sender<Job>>,
    done: Receiver<Result<(), StoreError>>,
    /// Jobs asked for and done.
    asked: usize,
    finished: usize,
    /// The job after which a window holds what its turn needs.
    loaded_at: [usize; 2],
    /// See [`super::Resources::poison`].
    pub(super) poison: bool,
    /// Bytes of pages loaded and stored.
    pub(super) loaded_bytes: u64,
    pub(super) stored_bytes: u64,
    thread: Option<JoinHandle<()>>,
}

impl Pager {
    /// Windows of `window_pages` pages into layers of `page_bytes` that live at `homes` (`None`: on the
    /// device).
    pub(super) fn start(
        device: &mut dyn Device,
        page_bytes: Vec<usize>,
        window_pages: usize,
        homes: Vec<Option<Home>>,
        spill: Option<Arc<SpillFile>>,
        shares_ram: bool,
    ) -> Result<Pager, ExecError> {
        let away = page_bytes.iter().zip(&homes).filter(|(_, home)| home.is_some());
        let bytes = away.map(|(&bytes, _)| bytes).max().unwrap_or(0) * window_pages;
        let windows = [
            device.alloc(bytes, "window of the KV cache")?,
            device.alloc(bytes, "window of the KV cache")?,
        ];
        let mut staging = Vec::new();
        let mut target = |window: Buffer| -> Result<Target, ExecError> {
            let start = match device.host_bytes(window).filter(|_| shares_ram) {
                Some(start) => start,
                None => {
                    staging.push(AlignedBuffer::new(bytes)?);
                    return Ok(Target::of(staging.last_mut().expect("just pushed")));
                }
            };
            Ok(Target::new(start, bytes))
        };
        let targets = [target(windows[0])?, target(windows[1])?];
        let (jobs, queue) = unbounded();
        let (report, done) = unbounded();
        let mut mover = Mover::new(page_bytes.clone(), homes, spill)?;
        let work = move || {
            for job in queue {
                if report.send(mover.run(&job)).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("pages".into()).spawn(work);
        Ok(Pager {
            page_bytes,
            windows,
            targets,
            _staging: staging,
            shares_ram,
            turns: Vec::new(),
            leaving: None,
            next_window: 0,
            jobs: Some(jobs),
            done,
            asked: 0,
            finished: 0,
            loaded_at: [0; 2],
            poison: false,
            loaded_bytes: 0,
            stored_bytes: 0,
            thread: Some(thread.map_err(ExecError::NoThread)?),
        })
    }

    fn ask(&mut self, job: Job) -> usize {
        let bytes = (job.pages.len() * self.page_bytes[job.layer]) as u64;
        *(if job.store { &mut self.stored_bytes } else { &mut self.loaded_bytes }) += bytes;
        // The thread lives as long as this side of the channel.
        let _ = self.jobs.as_ref().map(|jobs| jobs.send(job));
        self.asked += 1;
        self.asked
    }

    /// Waits until the first `count` jobs are done.
    fn wait(&mut self, count: usize) -> Result<(), ExecError> {
        while self.finished < count {
            self.done.recv().map_err(|_| ExecError::ReaderGone)??;
            self.finished += 1;
        }
        Ok(())
    }

    /// Begins to bring a micro-batch's pages of `layer`, unless the turn before writes to one of them:
    /// then that happens once it has.
    pub(super) fn load(
        &mut self,
        device: &mut dyn Device,
        layer: usize,
        batch: &Batch,
    ) -> Result<(), ExecError> {
        self.settle(device)?;
        let window = self.next_window;
        self.next_window = 1 - window;
        let (pages, written) = (batch.pages.clone(), batch.pages_written());
        let waits = self.turns.iter().any(|before| {
            before.layer == layer && before.written.iter().any(|page| pages.contains(page))
        });
        self.turns.push(Turn { layer, window, pages, written, loading: false });
        if !waits {
            self.begin(self.turns.len() - 1);
        }
        Ok(())
    }

    fn begin(&mut self, turn: usize) {
        let Turn { layer, window, ref pages, .. } = self.turns[turn];
        let pages = pages.iter().copied().zip(0..).collect();
        let target = self.targets[window];
        let job = Job { layer, target, pages, store: false, poison: self.poison };
        self.loaded_at[window] = self.ask(job);
        self.turns[turn].loading = true;
    }

    /// Waits for the pages of the oldest turn; its window.
    pub(super) fn arrived(&mut self, device: &mut dyn Device) -> Result<Buffer, ExecError> {
        if !self.turns[0].loading {
            self.settle(device)?;
            self.begin(0);
        }
        let Turn { layer, window, ref pages, .. } = self.turns[0];
        let bytes = pages.len() * self.page_bytes[layer];
        self.wait(self.loaded_at[window])?;
        if !self.shares_ram {
            // SAFETY: the load is done, and the thread gets no other job for this window before
            // `store`.
            let from = unsafe { self.targets[window].part(0, bytes).bytes() };
            device.write(self.windows[window], 0, from)?;
        }
        Ok(self.windows[window])
    }

    /// Ends the oldest turn: what it wrote goes back. A device with memory of its own copies it while the
    /// next turn is prepared.
    pub(super) fn store(&mut self, device: &mut dyn Device) -> Result<(), ExecError> {
        self.settle(device)?;
        let turn = self.turns.remove(0);
        let at = |page: &u32| turn.pages.iter().position(|p| p == page).expect("written is loaded");
        let places: Vec<usize> = turn.written.iter().map(at).collect();
        if self.shares_ram {
            self.send_home(&turn, &places);
            return Ok(());
        }
        let bytes = self.page_bytes[turn.layer];
        let parts: Vec<(usize, usize)> =
            places.iter().map(|place| (place * bytes, bytes)).collect();
        let fetch = device.fetch(self.windows[turn.window], &parts)?;
        self.leaving = Some(Leaving { turn, places, fetch });
        Ok(())
    }

    /// Waits for the pages that are leaving the device and sends them home. Before that, their window's
    /// memory in RAM is not loaded into, and no page of theirs is loaded.
    pub(super) fn settle(&mut self, device: &mut dyn Device) -> Result<(), ExecError> {
        let Some(Leaving { turn, places, fetch }) = self.leaving.take() else { return Ok(()) };
        let bytes = self.page_bytes[turn.layer];
        let fetched = device.fetched(fetch)?;
        for (page, &place) in fetched.chunks_exact(bytes).zip(&places) {
            // SAFETY: the load of this turn is done, and the thread gets no other job for this window
            // before this one.
            unsafe { self.targets[turn.window].part(place * bytes, bytes).bytes() }
                .copy_from_slice(page);
        }
        self.send_home(&turn, &places);
        Ok(())
    }

    fn send_home(&mut self, turn: &Turn, places: &[usize]) {
        let pages = turn.written.iter().copied().zip(places.iter().copied()).collect();
        let (layer, target) = (turn.layer, self.targets[turn.window]);
        self.ask(Job { layer, target, pages, store: true, poison: false });
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        self.jobs = None;
        // A thread that panicked has said so.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The thread's side.
struct Mover {
    page_bytes: Vec<usize>,
    homes: Vec<Option<Home>>,
    spill: Option<Arc<SpillFile>>,
    bounce: AlignedBuffer,
}

impl Mover {
    fn new(
        page_bytes: Vec<usize>,
        homes: Vec<Option<Home>>,
        spill: Option<Arc<SpillFile>>,
    ) -> Result<Mover, ExecError> {
        let largest = page_bytes.iter().copied().max().unwrap_or(0);
        let bytes = if spill.is_some() { bounce_bytes(largest) } else { 0 };
        Ok(Mover { page_bytes, homes, spill, bounce: AlignedBuffer::new(bytes)? })
    }

    fn run(&mut self, job: &Job) -> Result<(), StoreError> {
        let bytes = self.page_bytes[job.layer];
        if job.poison {
            // SAFETY: the pager leaves the window alone until the job is done.
            unsafe { job.target.bytes() }.fill(POISON);
        }
        match &mut self.homes[job.layer] {
            Some(Home::Ram(pages)) => {
                for &(page, place) in &job.pages {
                    let at = &mut pages[page as usize * bytes..][..bytes];
                    // SAFETY: the pager leaves the window alone until the job is done.
                    let window = unsafe { job.target.part(place * bytes, bytes).bytes() };
                    if job.store { at.copy_from_slice(window) } else { window.copy_from_slice(at) }
                }
                Ok(())
            }
            Some(Home::File { first, sums }) => {
                let (first, mut sums) = (*first, std::mem::take(sums));
                // Neighbours in the file that are neighbours in the window go together.
                let most = self.bounce.len() / stride(bytes);
                let together =
                    |a: &(u32, usize), b: &(u32, usize)| b.0 == a.0 + 1 && b.1 == a.1 + 1;
                let runs = job.pages.chunk_by(together).flat_map(|run| run.chunks(most));
                let moved = runs.map(|run| (run[0], run.len())).try_for_each(|(start, count)| {
                    self.move_run(job, (first, &mut sums), start, count)
                });
                self.homes[job.layer] = Some(Home::File { first, sums });
                moved
            }
            None => unreachable!("only layers away from the device have turns"),
        }
    }

    fn move_run(
        &mut self,
        job: &Job,
        (first, sums): (u64, &mut [u64]),
        (page, place): (u32, usize),
        count: usize,
    ) -> Result<(), StoreError> {
        let (bytes, stride) = (self.page_bytes[job.layer], stride(self.page_bytes[job.layer]));
        let spill = self.spill.as_ref().expect("a file was made for pages");
        let offset = first + u64::from(page) * stride as u64;
        let bounce = &mut self.bounce[..count * stride];
        // SAFETY: the pager leaves the window alone until the job is done.
        let window = unsafe { job.target.part(place * bytes, count * bytes).bytes() };
        let sums = &mut sums[page as usize..][..count];
        let pages = window.chunks_exact_mut(bytes).zip(sums);
        if job.store {
            for (padded, (page, sum)) in bounce.chunks_exact_mut(stride).zip(pages) {
                padded[..bytes].copy_from_slice(page);
                *sum = checksum(padded);
            }
            return spill.write_at(offset, bounce);
        }
        spill.read_at(offset, bounce)?;
        let offsets = (offset..).step_by(stride);
        for ((padded, offset), (page, sum)) in
            bounce.chunks_exact_mut(stride).zip(offsets).zip(pages)
        {
            if *sum != 0 {
                spill.verify(offset, padded, *sum)?;
            }
            page.copy_from_slice(&padded[..bytes]);
        }
        Ok(())
    }
}

/// Bytes that a pager takes, its homes aside: two windows, memory beside them where the device has its
/// own, and the buffer to and from the file.
pub(super) fn bytes(windows: &Windows, shares_ram: bool) -> Split {
    if windows.pages == 0 {
        return Split::default();
    }
    let both = 2 * windows.bytes();
    let bounce = if windows.disk { bounce_bytes(windows.page_bytes as usize) as u64 } else { 0 };
    Split { device: both, ram: bounce + if shares_ram { 0 } else { both }, disk: 0 }
}

/// Bytes of the buffer to and from the file for pages of up to `page_bytes`.
fn bounce_bytes(page_bytes: usize) -> usize {
    BOUNCE_BYTES.max(stride(page_bytes))
}

/// Bytes of a page in the spill file.
pub(super) fn stride(page_bytes: usize) -> usize {
    page_bytes.next_multiple_of(IO_ALIGN)
}
