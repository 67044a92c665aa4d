//! The disk that weights are streamed from: reads by access pattern, writes, and reading while computing.

use super::effort::{Effort, Pace};
use super::error::ProfileError;
use super::file::read_at;
use super::layer::{SMALLEST, Workload};
use super::meter::Meter;
use super::samples::{Overlap, Samples, noise};
use crate::backend::DeviceError;
use crate::kernel::Call;
use crate::store::{AlignedBuffer, forget, free_bytes, set_direct};
use forebay_planner::DiskRates;
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Reads in flight, one a thread.
const THREADS: [usize; 3] = [1, 2, 4];
/// Bytes of one read.
const PIECES: [usize; 2] = [1 << 20, 4 << 20];
/// Bytes of a synced write.
const WRITE: usize = 32 << 20;
/// Least bytes of a file whose reads say something.
pub const FILE_MIN: u64 = 32 << 20;
/// Reads past the page cache are preferred at this part of the best rate of all: the others cost the
/// processor a copy, and memory that the budget does not know of.
const DIRECT_IS_WORTH: f64 = 0.85;
/// Patterns this close to the best of their kind are as good.
const AS_GOOD: f64 = 0.97;
/// Rows of the layers that are computed while the disk is read.
const COMPUTE_ROWS: usize = 32;

/// Where bytes are streamed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskPlace {
    folder: PathBuf,
    file: Option<PathBuf>,
}

impl DiskPlace {
    /// A folder, in which a scratch file is made. It is gone when measuring ends, however it ends.
    pub fn folder_of(folder: impl Into<PathBuf>) -> DiskPlace {
        DiskPlace { folder: folder.into(), file: None }
    }

    /// The same, and a large file on the same disk that is read instead of the scratch file.
    pub fn with_file(self, file: impl Into<PathBuf>) -> DiskPlace {
        DiskPlace { file: Some(file.into()), ..self }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// What one access pattern reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReadRate {
    /// Whether reads went past the page cache.
    pub direct: bool,
    /// Reads in flight.
    pub threads: usize,
    /// Bytes of one read.
    pub bytes: usize,
    /// What was reached.
    pub bytes_per_sec: f64,
}

/// An opened place and its measurements.
pub(super) struct Disk {
    path: PathBuf,
    file: File,
    bytes: u64,
    next: AtomicU64,
    /// One for each thread.
    buffers: Vec<AlignedBuffer>,
    writes: Samples,
    reads: Vec<(ReadRate, Samples)>,
    sustained: Samples,
    overlap: Overlap,
    /// Calls of the layer that are run beside reading, and how often.
    beside: Option<(Range<usize>, usize)>,
}

impl Disk {
    /// Writes the scratch file, which measures writing, and opens what is read.
    pub(super) fn open(place: &DiskPlace, effort: Effort) -> Result<Disk, ProfileError> {
        let folder = |source| ProfileError::disk(&place.folder, source);
        let free = free_bytes(&place.folder).unwrap_or(u64::MAX);
        // A few gigabytes more or less matter to nobody who has eight times as much.
        let affordable = free / 8;
        if affordable < FILE_MIN {
            let (need_bytes, free_bytes) = (8 * FILE_MIN, free);
            let path = place.folder.clone();
            return Err(ProfileError::NoRoom { path, need_bytes, free_bytes });
        }
        let mut scratch = tempfile::tempfile_in(&place.folder).map_err(folder)?;
        let mut writes = Samples::default();
        let want = effort.file_bytes().min(affordable);
        let written = write(&mut scratch, want, effort, &mut writes).map_err(folder)?;
        let (path, file, bytes) = match &place.file {
            None => (place.folder.clone(), scratch, written),
            Some(path) => {
                let named = |source| ProfileError::disk(path, source);
                let file = File::open(path).map_err(named)?;
                let bytes = file.metadata().map_err(named)?.len();
                (path.clone(), file, bytes)
            }
        };
        forget(&file, 0, 0);
        let buffers = (0..THREADS[THREADS.len() - 1])
            .map(|_| AlignedBuffer::new(PIECES[PIECES.len() - 1]))
            .collect::<Result<_, _>>()
            .map_err(|error| folder(io::Error::other(error)))?;
        Ok(Disk {
            path,
            file,
            bytes,
            next: AtomicU64::new(0),
            buffers,
            writes,
            reads: patterns().map(|pattern| (pattern, Samples::default())).collect(),
            sustained: Samples::default(),
            overlap: Overlap::default(),
            beside: None,
        })
    }

    /// One round over the access patterns; of each kind, at least one is had.
    pub(super) fn round(&mut self, pace: Pace) -> Result<(), ProfileError> {
        for index in 0..self.reads.len() {
            let (pattern, bytes) = (self.reads[index].0, pace.effort.read_bytes());
            let had = self
                .reads
                .iter()
                .any(|(rate, samples)| rate.direct == pattern.direct && !samples.is_empty());
            if had && pace.is_late() {
                continue;
            }
            if let Some(seconds) = self.read(pattern, bytes, pace.effort.sample_max())? {
                self.reads[index].1.push(seconds);
            }
        }
        Ok(())
    }

    /// Reads for longer by the best pattern, alone and beside computing. The choice of the best of many
    /// is biased towards luck; these samples are not.
    pub(super) fn confirm(
        &mut self,
        meter: &mut Meter<'_>,
        effort: Effort,
    ) -> Result<(), ProfileError> {
        let best = self.best();
        let bytes = 2 * effort.read_bytes();
        let Some(alone) = self.read(best, bytes, 2.0 * effort.sample_max())? else {
            return Ok(());
        };
        self.sustained.push(alone);
        let seconds = bytes as f64 * alone;
        let workload = Workload::load(meter, COMPUTE_ROWS)?;
        let measured = self.beside(meter, &workload, best, bytes, seconds);
        workload.unload(meter);
        measured
    }

    /// Reads `bytes`, which take `read` seconds alone, beside calls that take about as long.
    fn beside(
        &mut self,
        meter: &mut Meter<'_>,
        workload: &Workload,
        best: ReadRate,
        bytes: u64,
        read: f64,
    ) -> Result<(), ProfileError> {
        let (chosen, times) = match self.beside.clone() {
            Some(beside) => beside,
            None => self.beside.insert(as_long(meter, workload.calls(), read)?).clone(),
        };
        let runs = || std::iter::repeat_n(&workload.calls()[chosen.clone()], times);
        let compute = meter.elapsed(runs())?;
        let start = Instant::now();
        let limit = 4.0 * (read + compute);
        let (computed, done) = std::thread::scope(|scope| {
            let reader = scope.spawn(|| self.read(best, bytes, limit));
            let computed = meter.elapsed(runs());
            (computed, reader.join().unwrap_or(Ok(None)))
        });
        let both = start.elapsed().as_secs_f64();
        computed?;
        if done?.is_some() {
            self.overlap.push([read, compute], both);
        }
        Ok(())
    }

    /// Seconds per byte of reading about `bytes` by a pattern, from the disk; stops at `limit` seconds.
    /// `None` where the pattern is not to be had here.
    fn read(
        &mut self,
        pattern: ReadRate,
        bytes: u64,
        limit: f64,
    ) -> Result<Option<f64>, ProfileError> {
        if set_direct(&self.file, pattern.direct).is_err() {
            return Ok(None);
        }
        forget(&self.file, 0, 0);
        let piece = (pattern.bytes as u64).min(self.bytes / 4096 * 4096).max(1);
        let pieces = (self.bytes / piece).max(1);
        let reads = bytes.div_ceil(piece);
        let (taken, start) = (AtomicU64::new(0), Instant::now());
        let (file, next) = (&self.file, &self.next);
        let work = |buffer: &mut AlignedBuffer| -> io::Result<u64> {
            let mut done = 0;
            let out = &mut buffer[..piece as usize];
            while taken.fetch_add(1, Ordering::Relaxed) < reads
                && (done == 0 || start.elapsed().as_secs_f64() < limit)
            {
                let at = next.fetch_add(1, Ordering::Relaxed) % pieces;
                read_at(file, at * piece, out)?;
                done += piece;
            }
            Ok(done)
        };
        let results: Vec<io::Result<u64>> = std::thread::scope(|scope| {
            let buffers = self.buffers.iter_mut().take(pattern.threads);
            let threads: Vec<_> = buffers.map(|buffer| scope.spawn(move || work(buffer))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or(Ok(0))).collect()
        });
        let seconds = start.elapsed().as_secs_f64();
        // Only what was set to be direct can refuse.
        let _ = set_direct(&self.file, false);
        forget(&self.file, 0, 0);
        match results.into_iter().sum::<io::Result<u64>>() {
            Ok(0) => Ok(None),
            Ok(done) => Ok(Some(seconds / done as f64)),
            // File systems that take the flag may still refuse the reads.
            Err(error) if pattern.direct => {
                tracing::debug!(%error, "direct reads are refused");
                Ok(None)
            }
            Err(error) => Err(ProfileError::disk(&self.path, error)),
        }
    }

    /// The pattern to stream by: past the page cache unless that is much slower; then of those that are
    /// about as fast as the fastest the one with the fewest reads in flight, then the largest ones.
    fn best(&self) -> ReadRate {
        choose(&self.rates())
    }

    /// What each pattern reached.
    pub(super) fn rates(&self) -> Vec<ReadRate> {
        let measured = self.reads.iter().filter(|(_, samples)| !samples.is_empty());
        measured
            .map(|(rate, samples)| ReadRate { bytes_per_sec: 1.0 / samples.median(), ..*rate })
            .collect()
    }

    /// What was measured.
    pub(super) fn profile(&self) -> DiskRates {
        let best = self.best();
        let sustained = self.sustained.median();
        DiskRates {
            read_bytes_per_sec: if sustained > 0.0 { 1.0 / sustained } else { best.bytes_per_sec },
            write_bytes_per_sec: 1.0 / self.writes.median(),
            queue_depth: best.threads,
            read_bytes: best.bytes as u64,
            direct: best.direct,
            overlap: self.overlap.part(),
        }
    }
}

/// The calls of a layer, and how often they are run, to take about as long as `read` seconds; one call
/// where all of them take longer.
fn as_long(
    meter: &mut Meter<'_>,
    calls: &[Call],
    read: f64,
) -> Result<(Range<usize>, usize), DeviceError> {
    let one = SMALLEST..SMALLEST + 1;
    meter.elapsed([&calls[one.clone()]])?;
    let short = meter.elapsed([&calls[one.clone()]])?;
    let chosen = if short * calls.len() as f64 > read { one } else { 0..calls.len() };
    let once = meter.elapsed([&calls[chosen.clone()]])?.max(1e-6);
    Ok((chosen, ((read / once) as usize).clamp(1, 10_000)))
}

fn patterns() -> impl Iterator<Item = ReadRate> {
    [true, false].into_iter().flat_map(|direct| {
        THREADS.into_iter().flat_map(move |threads| {
            PIECES.map(|bytes| ReadRate { direct, threads, bytes, bytes_per_sec: 0.0 })
        })
    })
}

/// See [`Disk::best`].
fn choose(rates: &[ReadRate]) -> ReadRate {
    let fastest = |direct: bool| {
        let kind = rates.iter().filter(|rate| rate.direct == direct);
        kind.map(|rate| rate.bytes_per_sec).fold(0.0, f64::max)
    };
    let direct = fastest(true) >= DIRECT_IS_WORTH * fastest(false);
    let good = rates
        .iter()
        .filter(|rate| rate.direct == direct && rate.bytes_per_sec >= AS_GOOD * fastest(direct));
    let key = |rate: &&ReadRate| (rate.threads, usize::MAX - rate.bytes);
    good.min_by_key(key).copied().unwrap_or(ReadRate {
        direct: false,
        threads: 1,
        bytes: PIECES[PIECES.len() - 1],
        bytes_per_sec: 0.0,
    })
}

/// Writes up to `bytes` that no file system can compress, synced piece by piece, until time is up;
/// returns how many.
fn write(file: &mut File, bytes: u64, effort: Effort, samples: &mut Samples) -> io::Result<u64> {
    let mut noise = noise();
    let block: Vec<u8> = (0..WRITE / 4)
        .flat_map(|_| ((noise() * 16_777_216.0) as u32).wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let (begin, limit) = (Instant::now(), 6.0 * effort.sample_max());
    let mut written = 0;
    while written < bytes && (written < FILE_MIN || begin.elapsed().as_secs_f64() < limit.max(1.0))
    {
        let start = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        samples.push(start.elapsed().as_secs_f64() / WRITE as f64);
        written += WRITE as u64;
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::super::meter::Clock;
    use super::*;
    use crate::backend::cpu::CpuDevice;

    #[test]
    fn the_cheapest_of_the_fastest_is_chosen() {
        let rate = |direct, threads, bytes, bytes_per_sec| ReadRate {
            direct,
            threads,
            bytes,
            bytes_per_sec,
        };
        let rates = [
            rate(false, 1, 4 << 20, 2.20e9),
            rate(true, 4, 1 << 20, 1.98e9),
            rate(true, 2, 1 << 20, 1.95e9),
            rate(true, 2, 4 << 20, 1.94e9),
            rate(true, 1, 4 << 20, 1.80e9),
        ];
        assert_eq!(choose(&rates), rates[3]);
        assert_eq!(choose(&rates[..1]), rates[0]);
        assert_eq!(choose(&[rates[0], rates[4]]), rates[0], "direct reads are much slower");
        assert_eq!(choose(&[]).bytes_per_sec, 0.0);
    }

    #[test]
    fn a_folder_and_a_file_are_measured_and_left_clean() {
        let dir = tempfile::tempdir().unwrap();
        let mut device = CpuDevice::new(Some(1)).unwrap();
        let mut meter = Meter::new(&mut device, Clock::Wall).unwrap();
        let model = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(model.path(), vec![7; 10_000]).unwrap();
        let folder = DiskPlace::folder_of(dir.path());
        for place in [folder.clone(), folder.with_file(model.path())] {
            let mut disk = Disk::open(&place, Effort::Quick).unwrap();
            disk.round(Pace::start(Effort::Quick, Clock::Wall)).unwrap();
            disk.confirm(&mut meter, Effort::Quick).unwrap();
            let profile = disk.profile();
            assert!(profile.read_bytes_per_sec > 1e5, "{profile:?}");
            assert!(profile.write_bytes_per_sec > 1e5, "{profile:?}");
            assert!((0.0..=1.0).contains(&profile.overlap));
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = Disk::open(&DiskPlace::folder_of("/no/such/folder"), Effort::Quick);
        let error = error.err().unwrap().to_string();
        assert!(error.contains("/no/such/folder"), "{error}");
    }
}
