//! Linear layers of the cpu device: CSV of GFLOP/s and weight GB/s per shape, type and rows of x.
//!
//! `cargo bench --bench linear [-- [FILTER] [--threads=N]]`; a line is kept if it contains FILTER.
//! The best of several runs is printed, since other programs may be using the machine.

use forebay::backend::Device;
use forebay::backend::cpu::CpuDevice;
use forebay::kernel::{Call, Projection};
use forebay::quant::{DType, Packing};
use std::io::Write;
use std::time::{Duration, Instant};

const SHAPES: [(usize, usize); 4] = [(576, 1536), (896, 4864), (1536, 8960), (8960, 1536)];
const TYPES: [DType; 6] =
    [DType::Q4_1, DType::Q5_0, DType::Q4K, DType::Q6K, DType::Q8_0, DType::F16];
const ROWS: [usize; 4] = [1, 8, 32, 128];

/// Measure each line for about this long.
const PER_LINE: Duration = Duration::from_millis(300);

/// Weights are loaded often enough to leave the last-level cache between runs when rows are few.
const COLD_BYTES: usize = 96 << 20;

fn main() {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with("--")).unwrap_or_default();
    let threads = std::env::args().find_map(|arg| arg.strip_prefix("--threads=")?.parse().ok());
    let mut out = std::io::stdout().lock();
    let mut device = CpuDevice::new(threads).expect("a cpu device");
    writeln!(out, "device,k,n,type,m,gflops,weight_gbs,us").expect("stdout");
    let name = device.info().driver.replace(',', " ");
    for (cols, rows) in SHAPES {
        for dtype in TYPES {
            if !cols.is_multiple_of(dtype.block_len()) {
                continue;
            }
            for m in ROWS {
                let label = format!("{name},{cols},{rows},{dtype},{m}");
                if !format!("{label},").contains(&filter) {
                    continue;
                }
                let seconds = measure(&mut device, dtype, (cols, rows), m);
                let flops = 2.0 * (m * rows * cols) as f64;
                let bytes = Packing::new(dtype, rows, cols).bytes() as f64;
                let (gflops, gbs) = (flops / seconds / 1e9, bytes / seconds / 1e9);
                writeln!(out, "{label},{gflops:.1},{gbs:.2},{:.1}", seconds * 1e6).expect("stdout");
            }
        }
    }
}

/// Seconds this thread has been on a core: with one thread a better measure than the wall while other
/// programs run.
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

/// Best seconds of one layer.
fn measure(device: &mut CpuDevice, dtype: DType, (cols, rows): (usize, usize), m: usize) -> f64 {
    let alone = device.info().driver.ends_with(" 1 thread");
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let row: Vec<f32> = (0..cols).map(|_| random()).collect();
    let mut bytes = Vec::new();
    forebay::quant::quantize_row(dtype, &row, &mut bytes);
    let bytes = bytes.repeat(rows);
    let copies = if m <= 8 { COLD_BYTES.div_ceil(bytes.len()) } else { 1 };
    let weights: Vec<_> = (0..copies)
        .map(|_| device.load(dtype, rows, cols, &bytes, "weight").expect("memory"))
        .collect();
    let x = device.alloc(m * cols * 4, "x").expect("memory");
    let values: Vec<f32> = (0..m * cols).map(|_| random()).collect();
    let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    device.write(x, 0, &raw).expect("device");
    let out = device.alloc(m * rows * 4, "out").expect("memory");
    let start = Instant::now();
    let mut best = f64::INFINITY;
    while start.elapsed() < PER_LINE {
        let calls: Vec<Call> = weights
            .iter()
            .map(|&weight| {
                let projections = vec![Projection::whole(weight, None, out)];
                Call::Linear { x, rows: m, cols, projections }
            })
            .collect();
        let (begin, busy) = (Instant::now(), on_core());
        device.run(&calls).expect("device");
        let wall = begin.elapsed().as_secs_f64();
        let busy = on_core() - busy;
        let seconds = if alone && !busy.is_nan() { busy } else { wall };
        best = best.min(seconds / copies as f64);
    }
    weights.into_iter().for_each(|weight| device.unload(weight));
    device.free(x);
    device.free(out);
    best
}
