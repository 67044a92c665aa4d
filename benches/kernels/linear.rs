//! Linear layers. With few rows the weights come from memory; with many the products take the time.

use super::ceilings::Ceilings;
use super::{COLD_BYTES, Report, Work, best, put, values};
use forebay::backend::Device;
use forebay::backend::cpu::CpuDevice;
use forebay::kernel::{Call, Projection};
use forebay::quant::{DType, Packing, pack, quantize_row};

const SHAPES: [(usize, usize); 4] = [(576, 1536), (896, 4864), (1536, 8960), (8960, 1536)];
const TYPES: [DType; 7] =
    [DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q4K, DType::Q6K, DType::Q8_0, DType::F16];
const ROWS: [usize; 6] = [1, 4, 16, 64, 128, 512];

pub(super) fn measure(device: &mut CpuDevice, ceilings: &Ceilings, report: &mut Report) {
    for (cols, rows) in SHAPES {
        for dtype in TYPES {
            if !cols.is_multiple_of(dtype.block_len()) {
                continue;
            }
            for m in ROWS {
                let label = format!("linear,{cols}x{rows},{dtype},{m}");
                if !report.wants(&label) {
                    continue;
                }
                let seconds = seconds(device, dtype, (cols, rows), m);
                let weights = Packing::new(dtype, rows, cols).bytes();
                let peak = if dtype.is_float() { ceilings.f32 } else { ceilings.int8 };
                let work = Work {
                    operations: 2.0 * (m * rows * cols) as f64,
                    peak,
                    bytes: (weights + 4 * m * (cols + rows)) as f64,
                };
                report.measured(&label, seconds, &work, ceilings);
            }
        }
    }
}

/// Best seconds of one layer.
fn seconds(device: &mut CpuDevice, dtype: DType, (cols, rows): (usize, usize), m: usize) -> f64 {
    let mut bytes = Vec::new();
    quantize_row(dtype, &values(cols), &mut bytes);
    let bytes = bytes.repeat(rows);
    let copies = if m <= 16 { COLD_BYTES.div_ceil(bytes.len()) } else { 1 };
    // One after the other, as a layer has them.
    let packing = Packing::new(dtype, rows, cols);
    let mut packed = vec![0; packing.bytes()];
    pack(&packing, &bytes, &mut packed);
    let layers = put(device, &packed.repeat(copies));
    let weights: Vec<_> = (0..copies)
        .map(|copy| device.view(dtype, rows, cols, layers, copy * packed.len()))
        .collect();
    let x = put(device, &values(m * cols));
    let out = device.alloc(m * rows * 4, "out").expect("memory");
    let calls: Vec<Call> = weights
        .iter()
        .map(|&weight| {
            let projections = [Projection::whole(weight, None, out)].into();
            Call::Linear { x, rows: m, cols, projections }
        })
        .collect();
    let seconds = best(|| device.run(&calls).expect("device")) / copies as f64;
    weights.into_iter().for_each(|weight| device.unload(weight));
    [x, out, layers].into_iter().for_each(|buffer| device.free(buffer));
    seconds
}
