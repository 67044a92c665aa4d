//! What drafts cost where they could live.

use super::engine::Model;
use super::prepare::Setup;
use crate::backend::cpu::CpuDevice;
use crate::backend::{Device, DeviceKind};
use crate::exec::{ExecutorFootprint, model_shape};
use crate::kernel::KvFormat;
use forebay_planner::{
    DRAFT_ROWS, Demand, Draft, Footprint, HEAD_ROWS, HardwareProfile, Inputs, Pins, Requests,
    Split, Tier, Workload, resident_passes,
};

/// Positions that a draft's rows see, for its predicted time.
const POSITIONS: usize = 512;

/// Pages whose tables tell what one takes in them.
const SOME_PAGES: usize = 1024;

/// What the draft takes in a place, and how long its passes are.
pub(super) fn place(
    draft: &Model,
    setup: &Setup<'_>,
    home: Tier,
    (device, profile): (&dyn Device, &HardwareProfile),
) -> anyhow::Result<Draft> {
    let files = &draft.files;
    let (format, threads) = (setup.kv_format, setup.engine.threads);
    let shape = model_shape(files, false)?;
    // What a device of its own holds before anything is loaded.
    let own = match device.info().kind {
        DeviceKind::Cpu => CpuDevice::own_bytes(threads, &[]),
        _ => device.memory().bytes,
    };
    let kv = (format, setup.context_len);
    let footprint = ExecutorFootprint::new(files, device, Split::default(), kv, None)?;
    let working = |rows: usize, pages: usize| {
        let (batch, micro_rows, outputs) = (rows, rows, rows.min(HEAD_ROWS));
        let demand = Demand { batch, rows, micro_rows, outputs, pages, ..Demand::default() };
        let Split { device, ram, .. } = footprint.workspace(&demand);
        [device + footprint.activations(&demand), ram]
    };
    let least = working(DRAFT_ROWS, 0);
    // What one of `count` more rows or pages adds.
    let one = |more: [u64; 2], count: usize| {
        [0, 1].map(|i| more[i].saturating_sub(least[i]).div_ceil(count as u64))
    };
    let row = one(working(2 * DRAFT_ROWS, 0), DRAFT_ROWS);
    let table = one(working(DRAFT_ROWS, SOME_PAGES), SOME_PAGES);
    let rest = [0, 1].map(|i| least[i].saturating_sub(DRAFT_ROWS as u64 * row[i]));
    let weights = shape.weight_bytes();
    let on = |bytes: u64| if home == Tier::Device { (bytes, 0) } else { (0, bytes) };
    let split = |own: u64, ram: u64| {
        let (device, host) = on(own);
        Split { device, ram: host + ram, disk: 0 }
    };
    let layers = 0..files.spec().layers.len();
    let page: u64 = layers.map(|layer| footprint.page_bytes(layer, format.name())).sum();
    Ok(Draft {
        home,
        is_target: false,
        pass_seconds: pass_seconds(&shape, &footprint, profile, format),
        bytes: split(weights + shape.vector_bytes + own + rest[0], rest[1]),
        page_bytes: split(page + table[0], table[1]),
        row_bytes: split(row[0], row[1]),
    })
}

/// The model as a draft of itself: it takes no memory, and passes of all its layers as long as this.
pub(super) fn itself(
    setup: &Setup<'_>,
    (device, profile): (&dyn Device, &HardwareProfile),
) -> anyhow::Result<Draft> {
    let (files, format) = (&setup.model.files, setup.kv_format);
    let kv = (format, setup.context_len);
    let footprint = ExecutorFootprint::new(files, device, Split::default(), kv, None)?;
    let nothing = Split::default();
    Ok(Draft {
        home: profile.near(),
        is_target: true,
        pass_seconds: pass_seconds(&model_shape(files, false)?, &footprint, profile, format),
        bytes: nothing,
        page_bytes: nothing,
        row_bytes: nothing,
    })
}

fn pass_seconds(
    shape: &forebay_planner::ModelShape,
    footprint: &ExecutorFootprint<'_>,
    profile: &HardwareProfile,
    format: KvFormat,
) -> Vec<(usize, f64)> {
    let requests = vec![Requests { prompt: 1, output: 1, count: 1 }];
    let workload = Workload { requests, ..Workload::default() };
    let inputs = Inputs {
        model: shape,
        footprint,
        hardware: profile,
        workload: &workload,
        budgets: Split::default(),
        kv_formats: &[format.name().to_string()],
        pins: &Pins::default(),
    };
    let rows: Vec<usize> = (0..=8).map(|power| 1 << power).collect();
    resident_passes(&inputs, POSITIONS, &rows)
}
