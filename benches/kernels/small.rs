//! What a pass does beside products: all of it moves more than it computes.

use super::ceilings::Ceilings;
use super::{Report, Work, best, put, values};
use forebay::backend::Device;
use forebay::backend::cpu::CpuDevice;
use forebay::kernel::{Activation, CacheLayout, Call, KvFormat, PAGE_LEN, RopeStyle};

/// Rows and columns: a pass of qwen2.5-coder-1.5b.
const ROWS: usize = 128;
const COLS: usize = 1536;
const WIDE: usize = 8960;
const HEAD_DIM: usize = 128;

pub(super) fn measure(device: &mut CpuDevice, ceilings: &Ceilings, report: &mut Report) {
    let x = put(device, &values(ROWS * WIDE));
    let y = put(device, &values(ROWS * WIDE));
    let weight = put(device, &values(COLS));
    let angles = put(device, &values(ROWS * HEAD_DIM));
    let (rows, cols) = (ROWS, COLS);
    let layout = CacheLayout { kv_heads: 2, head_dim: HEAD_DIM, format: KvFormat::F16 };
    let cache = device.alloc(ROWS / PAGE_LEN * layout.page_bytes(), "cache").expect("memory");
    let slots: Vec<u32> = (0..ROWS as u32).collect();
    let slots = put(device, &slots);
    let (heads, head_dim, pairs) = (cols / HEAD_DIM, HEAD_DIM, HEAD_DIM / 2);
    let style = RopeStyle::Halves;
    // Operations and bytes of an element are what the formula asks for, read and written once.
    let calls = [
        ("norm", cols, 4.0, 8.0, Call::RmsNorm { x, weight, out: y, rows, cols, eps: 1e-6 }),
        ("rope", cols, 3.0, 8.0, Call::Rope { x, angles, rows, heads, head_dim, pairs, style }),
        (
            "gate",
            WIDE,
            8.0,
            12.0,
            Call::Gate { gate: x, up: y, out: x, count: rows * WIDE, activation: Activation::Silu },
        ),
        ("add", cols, 1.0, 12.0, Call::Add { x, y, count: rows * cols }),
        (
            "append",
            layout.width(),
            2.0,
            12.0,
            Call::Append { k: x, v: y, cache, slots, rows, layout },
        ),
    ];
    for (name, width, operations, bytes, call) in calls {
        let label = format!("{name},{width},f32,{rows}");
        if !report.wants(&label) {
            continue;
        }
        let elements = (rows * width) as f64;
        let work =
            Work { operations: operations * elements, peak: ceilings.f32, bytes: bytes * elements };
        let seconds = best(|| device.run(std::slice::from_ref(&call)).expect("device"));
        report.measured(&label, seconds, &work, ceilings);
    }
    [x, y, weight, angles, cache, slots].into_iter().for_each(|buffer| device.free(buffer));
}
