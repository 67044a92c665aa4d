//! GFLOP/s of linear layers on a wgpu adapter: `cargo bench --bench gpu_linear -- [ADAPTER]`.

use forebay::backend::gpu::{GpuDevice, Selector};
use forebay::backend::Device;
use forebay::kernel::{Call, Projection};
use forebay::quant::{DType, quantize_row};
use std::io::Write;
use std::time::Instant;

/// Calls of one measurement.
const CALLS: usize = 30;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let name = arguments.first().cloned().unwrap_or_else(|| "llvmpipe".into());
    let mut device = GpuDevice::open(&Selector::Name(name))?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{} ({})", device.info().name, device.info().driver)?;
    writeln!(out, "dtype   cols   outs   rows  GFLOP/s best  median")?;
    let dtype = arguments.get(1).map_or("Q4_1", String::as_str);
    let dtype = DType::ALL.into_iter().find(|t| t.to_string() == dtype).unwrap_or(DType::Q4_1);
    for (cols, outs) in [(576, 576), (576, 1536), (1536, 576), (4096, 4096)] {
        for rows in [1, 4, 64, 256] {
            if (cols > 2000) && rows > 64 { continue; }
            let (best, median) = measure(&mut device, dtype, outs, cols, rows)?;
            writeln!(out, "{dtype:6} {cols:5} {outs:6} {rows:6} {best:13.1} {median:7.1}")?;
        }
    }
    Ok(())
}

fn measure(
    device: &mut GpuDevice,
    dtype: DType,
    outs: usize,
    cols: usize,
    rows: usize,
) -> anyhow::Result<(f64, f64)> {
    let row: Vec<f32> = (0..cols).map(|i| ((i * 37 + 11) % 101) as f32 / 101.0 - 0.5).collect();
    let mut bytes = Vec::new();
    (0..outs).for_each(|_| quantize_row(dtype, &row, &mut bytes));
    let weight = device.load(dtype, outs, cols, &bytes, "weight")?;
    let x = device.alloc(rows * cols * 4, "x")?;
    let y = device.alloc(rows * outs * 4, "y")?;
    device.write(x, 0, bytemuck::cast_slice(&row.repeat(rows)))?;
    let call = Call::Linear {
        x,
        rows,
        cols,
        projections: vec![Projection { weight, bias: None, out: y }],
    };
    let calls = vec![call; CALLS];
    let mut seconds = Vec::new();
    let mut last = [0u8; 4];
    for _ in 0..6 {
        let start = cpu();
        device.run(&calls)?;
        device.read(y, 0, &mut last)?;
        seconds.push((cpu()-start)/2.0 / CALLS as f64);
    }
    device.unload(weight);
    device.free(x);
    device.free(y);
    let flop = (2 * rows * cols * outs) as f64;
    seconds.sort_by(f64::total_cmp);
    Ok((flop / seconds[0] / 1e9, flop / seconds[2] / 1e9))
}

fn cpu() -> f64 {
    std::fs::read_dir("/proc/self/task").unwrap().map(|t| {
        let text = std::fs::read_to_string(t.unwrap().path().join("schedstat")).unwrap();
        text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
    }).sum()
}
