//! Cache pages that do not live on the device: brought into a window for a micro-batch's turn, and
//! back to where they live after it.
//!
//! There are two windows, so that the pages of the next turn come while those of this one are used. One
//! thread moves pages between the windows and their homes, in the order in which it is asked: a page
//! that is loaded after it was stored has what was stored.

use super::ExecError;
use super::executor::POISON;
use super::mover::{Home, Job, Mover, bounce_bytes, stride};
use super::reader::Target;
use super::traffic::Traffic;
use crate::backend::{CopyPart, Device, Fetch};
use crate::kernel::Buffer;
use crate::schedule::Batch;
use crate::store::{AlignedBuffer, SpillFile, StoreError};
use crossbeam::channel::{Receiver, Sender, unbounded};
use forebay_planner::{Split, Windows};
use std::sync::Arc;
use std::thread::JoinHandle;

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

/// See the module.
pub(super) struct Pager {
    page_bytes: Vec<usize>,
    windows: [Buffer; 2],
    /// By layer: its pages, where the device copies them by itself and the thread has no part in it.
    reached: Vec<Option<Buffer>>,
    /// By layer: whether its pages are on disk.
    on_disk: Vec<bool>,
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
    /// Pages loaded and stored.
    pub(super) moved: Traffic,
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
        let reached = homes.iter().map(|home| match home {
            Some(Home::Reached(buffer)) => Some(*buffer),
            _ => None,
        });
        let reached = reached.collect();
        let on_disk = homes.iter().map(|home| matches!(home, Some(Home::File { .. }))).collect();
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
            reached,
            on_disk,
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
            moved: Traffic::default(),
            thread: Some(thread.map_err(ExecError::NoThread)?),
        })
    }

    fn ask(&mut self, job: Job) -> usize {
        self.count(job.layer, job.pages.len(), job.store);
        // The thread lives as long as this side of the channel.
        let _ = self.jobs.as_ref().map(|jobs| jobs.send(job));
        self.asked += 1;
        self.asked
    }

    /// Counts pages of a layer that are stored or loaded.
    fn count(&mut self, layer: usize, pages: usize, stored: bool) {
        let (bytes, moved) = (self.page_bytes[layer], &mut self.moved);
        let (all, of_disk) = match stored {
            true => (&mut moved.page_store_bytes, &mut moved.disk_store_bytes),
            false => (&mut moved.page_load_bytes, &mut moved.disk_load_bytes),
        };
        *all += (pages * bytes) as u64;
        *of_disk += if self.on_disk[layer] { (pages * stride(bytes)) as u64 } else { 0 };
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
        let reached = self.reached[layer].is_some();
        self.turns.push(Turn { layer, window, pages, written, loading: reached });
        if !waits && !reached {
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
        if let Some(home) = self.reached[self.turns[0].layer] {
            return self.copy_in(device, home);
        }
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

    /// Brings the pages of the oldest turn out of memory that the device copies from.
    fn copy_in(&mut self, device: &mut dyn Device, home: Buffer) -> Result<Buffer, ExecError> {
        let Turn { layer, window, ref pages, .. } = self.turns[0];
        let (window, bytes, count) = (self.windows[window], self.page_bytes[layer], pages.len());
        if self.poison {
            device.write(window, 0, &vec![POISON; count * bytes])?;
        }
        let parts = pages.iter().zip(0..).map(|(&page, place): (&u32, usize)| CopyPart {
            from: page as usize * bytes,
            to: place * bytes,
            bytes,
        });
        let parts = joined(parts);
        self.count(layer, count, false);
        device.copy(home, window, &parts)?;
        Ok(window)
    }

    /// Ends the oldest turn: what it wrote goes back. A device with memory of its own copies it while the
    /// next turn is prepared.
    pub(super) fn store(&mut self, device: &mut dyn Device) -> Result<(), ExecError> {
        self.settle(device)?;
        let turn = self.turns.remove(0);
        let at = |page: &u32| turn.pages.iter().position(|p| p == page).expect("written is loaded");
        let places: Vec<usize> = turn.written.iter().map(at).collect();
        if let Some(home) = self.reached[turn.layer] {
            let bytes = self.page_bytes[turn.layer];
            let parts = turn.written.iter().zip(&places).map(|(&page, &place)| CopyPart {
                from: place * bytes,
                to: page as usize * bytes,
                bytes,
            });
            self.count(turn.layer, places.len(), true);
            return Ok(device.copy(self.windows[turn.window], home, &joined(parts))?);
        }
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
    fn settle(&mut self, device: &mut dyn Device) -> Result<(), ExecError> {
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

/// Parts that are neighbours on both sides as one.
fn joined(parts: impl Iterator<Item = CopyPart>) -> Vec<CopyPart> {
    let mut all: Vec<CopyPart> = Vec::new();
    for part in parts {
        match all.last_mut() {
            Some(last)
                if (last.from + last.bytes, last.to + last.bytes) == (part.from, part.to) =>
            {
                last.bytes += part.bytes;
            }
            _ => all.push(part),
        }
    }
    all
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::CpuDevice;
    use crate::kernel::PAGE_LEN;
    use crate::schedule::Span;
    use crate::store::IoControl;

    /// The disk has no part in pages that live in RAM.
    #[test]
    fn pages_are_counted_where_they_live() {
        let (page, pages) = (100, 3);
        let folder = tempfile::tempdir().unwrap();
        let capacity = (pages * stride(page)) as u64;
        let spill = SpillFile::create(folder.path(), capacity, IoControl::default()).unwrap();
        let ram = Home::Ram(AlignedBuffer::new(pages * page).unwrap());
        let file = Home::File { first: 0, sums: vec![0; pages] };
        let (homes, spill) = (vec![Some(ram), Some(file)], Some(Arc::new(spill)));
        let mut device = CpuDevice::new(Some(1)).unwrap();
        let mut pager = Pager::start(&mut device, vec![page; 2], 2, homes, spill, true).unwrap();
        // It sees two pages, and writes to the second.
        let mut batch = Batch::default();
        batch.push(Span { tokens: &[0], start: PAGE_LEN, pages: &[0, 2], ..Span::default() });
        for layer in [0, 1] {
            pager.load(&mut device, layer, &batch).unwrap();
            pager.arrived(&mut device).unwrap();
            pager.store(&mut device).unwrap();
        }
        let expected = Traffic {
            page_load_bytes: 400,
            page_store_bytes: 200,
            disk_load_bytes: 2 * stride(page) as u64,
            disk_store_bytes: stride(page) as u64,
            ..Traffic::default()
        };
        assert_eq!(pager.moved, expected);
        assert_eq!((expected + expected).disk_load_bytes, 4 * stride(page) as u64);
    }
}
