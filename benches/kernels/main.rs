//! Kernels of the cpu device against what the machine can do: CSV of operations and bytes per second, and
//! which part that is of the measured ceiling that bounds them.
//!
//! `cargo bench --bench kernels [-- [FILTER] [--threads=N] [--path=NAME] [--out=FILE]]`; a line is kept if
//! it contains FILTER; NAME is that of an instruction set, the best one if none is named. Lines go to
//! standard output and, with `--out`, to FILE. The best of several runs is taken, since other programs may be
//! using the machine; ceilings are measured again before each kind of kernel. What fits caches can be faster
//! than memory: a ratio above 1.

mod attention;
mod ceilings;
mod linear;
mod small;

use ceilings::Ceilings;
use forebay::backend::Device;
use forebay::backend::cpu::{CpuDevice, SimdPath};
use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

/// Measure each line for about this long.
const PER_LINE: Duration = Duration::from_millis(300);

/// Operands are as many as leave the last-level cache between runs.
const COLD_BYTES: usize = 96 << 20;

/// What one run of a kernel does.
struct Work {
    /// Operations: a multiply-add is two.
    operations: f64,
    /// The ceiling that they have, operations per second.
    peak: f64,
    /// Bytes that must come from memory, or go there.
    bytes: f64,
}

/// Where lines go.
struct Report {
    filter: String,
    device: String,
    commit: String,
    out: Option<File>,
}

impl Report {
    fn wants(&self, label: &str) -> bool {
        format!("{label},").contains(&self.filter)
    }

    fn line(&mut self, text: &str) {
        writeln!(std::io::stdout(), "{text}").expect("stdout");
        if let Some(out) = &mut self.out {
            writeln!(out, "{text}").expect("writing to --out");
        }
    }

    /// One kernel and shape, which took `seconds`. Its floor is the longer of its operations at their peak
    /// and its bytes at the rate of memory.
    fn measured(&mut self, label: &str, seconds: f64, work: &Work, ceilings: &Ceilings) {
        let compute = work.operations / work.peak;
        let memory = work.bytes / ceilings.stream;
        let (floor, bound) =
            if compute > memory { (compute, "compute") } else { (memory, "memory") };
        let Report { commit, device, .. } = self;
        let text = format!(
            "{commit},{device},{label},{:.1},{:.2},{:.1},{bound},{:.3}",
            work.operations / seconds / 1e9,
            work.bytes / seconds / 1e9,
            seconds * 1e6,
            floor / seconds
        );
        self.line(&text);
    }
}

fn main() {
    let option =
        |name: &str| std::env::args().find_map(|arg| arg.strip_prefix(name).map(str::to_string));
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with("--")).unwrap_or_default();
    let threads = option("--threads=").map(|text| text.parse().expect("a number of threads"));
    let out = option("--out=").map(|path| File::create(&path).expect("--out"));
    let path = option("--path=").map_or(SimdPath::best(), |name| {
        let named = SimdPath::ALL.into_iter().find(|path| path.to_string() == name);
        named.unwrap_or_else(|| panic!("--path={name}: not among {:?}", SimdPath::ALL))
    });
    let mut device = CpuDevice::with_path(threads, path).expect("a cpu device");
    let info = device.info();
    let name = format!("{} {}", info.name, info.driver.replace(',', ""));
    let threads =
        threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
    let mut report = Report { filter, device: name, commit: commit(), out };
    report.line("commit,device,kernel,shape,type,rows,gops,gbs,us,bound,ratio");
    let mut ceilings = Ceilings::measure(threads);
    for kind in [linear::measure, attention::measure, small::measure] {
        ceilings = ceilings.or(Ceilings::measure(threads));
        for (name, gops, gbs) in ceilings.rows() {
            report.line(&format!(
                "{},{},ceiling,{name},,,{gops},{gbs},,,",
                report.commit, report.device
            ));
        }
        kind(&mut device, &ceilings, &mut report);
    }
}

/// The commit that is measured, with a + if the tree has changes.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = std::process::Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let changed =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|s| !s.is_empty());
    let commit = git(&["rev-parse", "--short", "HEAD"]).unwrap_or_default();
    format!("{commit}{}", if changed { "+" } else { "" })
}

/// Best seconds of `run`, which is called until its time is up, three times at least.
fn best(mut run: impl FnMut()) -> f64 {
    let start = Instant::now();
    let (mut best, mut runs) = (f64::INFINITY, 0);
    while start.elapsed() < PER_LINE || runs < 3 {
        let begin = Instant::now();
        run();
        best = best.min(begin.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}

/// Reproducible values from -1 to 1.
fn values(count: usize) -> Vec<f32> {
    let mut state = 1u64;
    let next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// A buffer of these values.
fn put<T: bytemuck::NoUninit>(device: &mut CpuDevice, values: &[T]) -> forebay::kernel::Buffer {
    let bytes: &[u8] = bytemuck::cast_slice(values);
    let buffer = device.alloc(bytes.len().max(4), "operand").expect("memory");
    device.write(buffer, 0, bytes).expect("device");
    buffer
}
