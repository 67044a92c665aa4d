//! The thread that moves cache pages between windows and their homes, where the device does not.

use super::ExecError;
use super::executor::POISON;
use super::reader::Target;
use crate::kernel::Buffer;
use crate::quant::IO_ALIGN;
use crate::store::{AlignedBuffer, SpillFile, StoreError, checksum};
use std::sync::Arc;

/// Bytes of the buffer through which pages go to and from a file.
const BOUNCE_BYTES: usize = 1 << 20;

/// Where the pages of the layers that are not on the device live.
pub(super) enum Home {
    /// All pages of a layer, in RAM from which the device copies by itself.
    Reached(Buffer),
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

/// Moves bytes between a window and a home.
pub(super) struct Job {
    pub(super) layer: usize,
    pub(super) target: Target,
    /// (page of the layer's cache, its place in the window).
    pub(super) pages: Vec<(u32, usize)>,
    pub(super) store: bool,
    pub(super) poison: bool,
}

/// The thread's side.
pub(super) struct Mover {
    page_bytes: Vec<usize>,
    homes: Vec<Option<Home>>,
    spill: Option<Arc<SpillFile>>,
    bounce: AlignedBuffer,
}

impl Mover {
    pub(super) fn new(
        page_bytes: Vec<usize>,
        homes: Vec<Option<Home>>,
        spill: Option<Arc<SpillFile>>,
    ) -> Result<Mover, ExecError> {
        let largest = page_bytes.iter().copied().max().unwrap_or(0);
        let bytes = if spill.is_some() { bounce_bytes(largest) } else { 0 };
        Ok(Mover { page_bytes, homes, spill, bounce: AlignedBuffer::new(bytes)? })
    }

    pub(super) fn run(&mut self, job: &Job) -> Result<(), StoreError> {
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
            Some(Home::Reached(_)) | None => unreachable!("the device moves these pages"),
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

/// Bytes of the buffer to and from the file for pages of up to `page_bytes`.
pub(super) fn bounce_bytes(page_bytes: usize) -> usize {
    BOUNCE_BYTES.max(stride(page_bytes))
}

/// Bytes of a page in the spill file.
pub(super) fn stride(page_bytes: usize) -> usize {
    page_bytes.next_multiple_of(IO_ALIGN)
}
