//! Linear layers of the gpu device: CSV of GFLOP/s per shape and rows of x.
//!
//! `cargo bench --bench gpu_linear [-- ADAPTER [TYPE]]`. Two speeds: by the clock, best of several
//! runs, and for software adapters by the CPU time of two cores, which other programs disturb less.

use forebay::backend::Device;
use forebay::backend::gpu::{GpuDevice, Selector};
use forebay::kernel::{Call, Projection};
use forebay::quant::{DType, quantize_row};
use std::io::Write;
use std::time::Instant;

const SHAPES: [(usize, usize); 7] = [
    (576, 576),
    (576, 1536),
    (1536, 576),
    (1536, 8960),
    (4096, 4096),
    (4096, 14336),
    (14336, 4096),
];
const ROWS: [usize; 10] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];

/// Calls of one run.
const CALLS: usize = 20;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let name = arguments.first().map_or("llvmpipe", String::as_str);
    let wanted = arguments.get(1).map_or("Q4_1", String::as_str);
    let dtype = DType::ALL.into_iter().find(|t| t.to_string() == wanted).expect("a known type");
    let mut device = match GpuDevice::open(&Selector::Name(name.into())) {
        Ok(device) => device,
        Err(error) => {
            // The other benches go on.
            eprintln!("skipped: {error}");
            return;
        }
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "device,k,n,type,m,gflops,gflops_2cores").expect("stdout");
    for (cols, outs) in SHAPES {
        if !cols.is_multiple_of(dtype.block_len()) {
            continue;
        }
        for rows in ROWS {
            let (clock, cpu) = measure(&mut device, dtype, (outs, cols), rows);
            let name = device.info().name.replace(',', " ");
            writeln!(out, "{name},{cols},{outs},{dtype},{rows},{clock:.1},{cpu:.1}")
                .expect("stdout");
        }
    }
}

/// GFLOP/s by the clock and by two cores' CPU time.
fn measure(
    device: &mut GpuDevice,
    dtype: DType,
    (outs, cols): (usize, usize),
    rows: usize,
) -> (f64, f64) {
    let row: Vec<f32> = (0..cols).map(|i| ((i * 37 + 11) % 101) as f32 / 101.0 - 0.5).collect();
    let mut bytes = Vec::new();
    (0..outs).for_each(|_| quantize_row(dtype, &row, &mut bytes));
    let weight = device.load(dtype, outs, cols, &bytes, "weight").expect("weights");
    let x = device.alloc(rows * cols * 4, "x").expect("memory");
    let y = device.alloc(rows * outs * 4, "y").expect("memory");
    device.write(x, 0, bytemuck::cast_slice(&row.repeat(rows))).expect("a write");
    let projections = [Projection::whole(weight, None, y)].into();
    let calls = vec![Call::Linear { x, rows, cols, projections }; CALLS];
    let mut best = (f64::INFINITY, f64::INFINITY);
    for _ in 0..5 {
        let (clock, cpu) = (Instant::now(), cpu_seconds());
        device.run(&calls).expect("calls");
        device.read(y, 0, &mut [0; 4]).expect("a result");
        best.0 = best.0.min(clock.elapsed().as_secs_f64());
        best.1 = best.1.min((cpu_seconds() - cpu) / 2.0);
    }
    device.unload(weight);
    device.free(x);
    device.free(y);
    let gflop = (2 * CALLS * rows * cols * outs) as f64 / 1e9;
    (gflop / best.0, gflop / best.1)
}

/// CPU seconds of all threads of this process, or 0 where the system does not say.
fn cpu_seconds() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanoseconds = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<f64>() / 1e9
}
