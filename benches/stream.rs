//! The disk tier: CSV of GB/s and of core seconds per GB, packing, reading and throttled.
//!
//! `cargo bench --bench stream [-- [FILTER] [--model=FILE] [--folder=FOLDER] [--rounds=N]]`; a line is
//! kept if it contains FILTER. The model is qwen2.5-coder-1.5b in ~/.cache/forebay/models; its packed
//! weights are written to FOLDER (`target/stream`) and stay there. Lines are measured in turns, since
//! disks and neighbours change; medians are printed.

use forebay::model::TensorId;
use forebay::quant::{DType, Packing, SEGMENT_BYTES_MAX, Segment, pack, segments};
use forebay::store::{
    AlignedBuffer, CacheOptions, DirectFile, FileWeights, IoControl, ModelFiles, PackedCache,
    Throttle, WeightSource,
};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// What one run moved, how long it took, and how long cores were busy with it.
struct Run {
    bytes: usize,
    seconds: f64,
    core_seconds: f64,
}

type Line<'a> = (String, Box<dyn Fn() -> Run + 'a>);

fn option(name: &str) -> Option<String> {
    std::env::args().find_map(|arg| arg.strip_prefix(name)?.strip_prefix('=').map(str::to_string))
}

fn main() {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with("--")).unwrap_or_default();
    let rounds = option("--rounds").and_then(|n| n.parse().ok()).unwrap_or(5);
    let default_folder = concat!(env!("CARGO_MANIFEST_DIR"), "/target/stream").to_string();
    let folder = PathBuf::from(option("--folder").unwrap_or(default_folder));
    let home = std::env::var("HOME").unwrap_or_default();
    let default_model = format!("{home}/.cache/forebay/models/qwen2.5-coder-1.5b.gguf");
    let model = option("--model").unwrap_or(default_model);
    let disk = Path::new(&model).exists().then(|| Disk::open(&model, &folder));
    if disk.is_none() {
        eprintln!("skipped: {model} is missing");
    }
    let mut lines = packing();
    lines.extend(disk.iter().flat_map(Disk::lines));
    lines.extend(throttled());
    lines.retain(|(name, _)| name.contains(&filter));
    let mut runs: Vec<Vec<Run>> = lines.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for ((_, run), runs) in lines.iter().zip(&mut runs) {
            runs.push(run());
        }
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "what,bytes,gbs,core_seconds_per_gb").expect("stdout");
    for ((name, _), runs) in lines.iter().zip(&runs) {
        let gbs = median(runs, |run| run.bytes as f64 / run.seconds / 1e9);
        let cores = median(runs, |run| run.core_seconds / (run.bytes as f64 / 1e9));
        writeln!(out, "{name},{},{gbs:.4},{cores:.4}", runs[0].bytes).expect("stdout");
    }
}

fn median(runs: &[Run], of: impl Fn(&Run) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Seconds this thread has been on a core.
#[cfg(unix)]
fn on_core() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// The system does not tell.
#[cfg(not(unix))]
fn on_core() -> f64 {
    f64::NAN
}

/// Runs `work(i)` for `i` in `0..count` on `threads` threads; it returns the bytes it moved.
fn measure(threads: usize, count: usize, work: &(dyn Fn(usize, &mut [u8]) -> usize + Sync)) -> Run {
    let next = AtomicUsize::new(0);
    let one = |mut buffer: AlignedBuffer| {
        let (begin, mut bytes) = (on_core(), 0);
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return (bytes, on_core() - begin);
            }
            bytes += work(index, &mut buffer);
        }
    };
    let buffer = |_| {
        let mut buffer = AlignedBuffer::new(SEGMENT_BYTES_MAX).expect("memory");
        buffer.fill(1);
        buffer
    };
    let buffers: Vec<_> = (0..threads).map(buffer).collect();
    let start = Instant::now();
    let done: Vec<(usize, f64)> = std::thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> =
            buffers.into_iter().map(|buffer| scope.spawn(move || one(buffer))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let seconds = start.elapsed().as_secs_f64();
    let (bytes, cores): (Vec<usize>, Vec<f64>) = done.into_iter().unzip();
    Run { bytes: bytes.iter().sum(), seconds, core_seconds: cores.iter().sum() }
}

/// Rows of 1536 columns to packed order, a MiB at a time, on one thread.
fn packing() -> Vec<Line<'static>> {
    let line = |dtype: DType| -> Line<'static> {
        let rows = (1 << 20) / dtype.row_bytes(1536) / 16 * 16;
        let packing = Packing::new(dtype, rows, 1536);
        let source: Vec<u8> = (0..packing.bytes()).map(|at| (at * 31 / 8) as u8).collect();
        let run = move || {
            measure(1, 64, &|_, out| {
                pack(&packing, &source, &mut out[..packing.bytes()]);
                packing.bytes()
            })
        };
        (format!("pack {dtype}"), Box::new(run))
    };
    DType::ALL.map(line).into()
}

/// A throttle asked for a second's worth of pieces: `gbs` beside the rate in its name.
fn throttled() -> Vec<Line<'static>> {
    let line = |(rate, piece, threads): (u64, usize, usize)| -> Line<'static> {
        let run = move || {
            let throttle = Throttle::new(rate);
            measure(threads, (rate as usize).div_ceil(piece), &|_, _| {
                throttle.pace(piece as u64, || piece)
            })
        };
        let name = format!("throttle {} MB/s of {} KiB x{threads}", rate / 1_000_000, piece >> 10);
        (name, Box::new(run))
    };
    let (mb, mib) = (1_000_000, 1 << 20);
    [
        (200 * mb, 4 * mib, 1),
        (200 * mb, mib / 16, 1),
        (200 * mb, 4 * mib, 4),
        (2000 * mb, mib / 4, 2),
    ]
    .map(line)
    .into()
}

/// One model, and its cache.
struct Disk {
    cache: PackedCache,
    raw: DirectFile,
    files: FileWeights,
    segments: Vec<(TensorId, usize, Segment)>,
}

impl Disk {
    fn open(model: &str, folder: &Path) -> Disk {
        let files = Arc::new(ModelFiles::open(model).expect("a valid model"));
        let options = CacheOptions {
            bytes_max: u64::MAX,
            threads: 2,
            reading: IoControl::default(),
            building: IoControl::default(),
        };
        let start = Instant::now();
        let cache =
            PackedCache::open_or_build(Arc::clone(&files), folder, &options, &mut |_, _| {});
        let cache = cache.expect("a cache");
        let (gb, seconds) = (cache.bytes() as f64 / 1e9, start.elapsed().as_secs_f64());
        eprintln!("opened or built {gb:.2} GB in {seconds:.2} s; direct: {}", cache.is_direct());
        let raw = DirectFile::open(cache.path(), IoControl::default()).expect("the cache's file");
        let ids = files.spec().tensors().into_iter();
        let ids = ids.filter(|id| id.layer.is_some() && !id.role.is_vector());
        let cut = ids.flat_map(|id| {
            let packing = files.tensor(id).expect("listed").packing();
            segments(&packing).enumerate().map(move |(index, segment)| (id, index, segment))
        });
        let segments = cut.collect();
        let files = FileWeights::new(files, IoControl::default()).expect("the model's files");
        Disk { cache, raw, files, segments }
    }

    fn stream(&self, source: &dyn WeightSource, threads: usize) -> Run {
        measure(threads, self.segments.len(), &|at, out| {
            let (id, index, segment) = self.segments[at];
            let out = &mut out[..segment.padded()];
            source.read_segment(id, index, out).expect("readable");
            out.len()
        })
    }

    /// As many bytes as a stream has, in pieces of the largest segment.
    fn raw(&self, threads: usize) -> Run {
        let bytes: usize = self.segments.iter().map(|(_, _, segment)| segment.padded()).sum();
        measure(threads, bytes / SEGMENT_BYTES_MAX, &|at, out| {
            let offset = (at * SEGMENT_BYTES_MAX) as u64;
            self.raw.read_at(offset, &mut out[..SEGMENT_BYTES_MAX]).expect("readable");
            SEGMENT_BYTES_MAX
        })
    }

    fn lines(&self) -> Vec<Line<'_>> {
        let lines = [1, 2, 4].map(|threads| -> [Line; 3] {
            [
                (format!("raw direct x{threads}"), Box::new(move || self.raw(threads))),
                (
                    format!("packed cache x{threads}"),
                    Box::new(move || self.stream(&self.cache, threads)),
                ),
                (
                    format!("packed from the model x{threads}"),
                    Box::new(move || self.stream(&self.files, threads)),
                ),
            ]
        });
        lines.into_iter().flatten().collect()
    }
}
