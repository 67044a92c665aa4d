//! `Call::Linear` as dispatches: rounding of x once, then one dispatch per slab and run of rows.

use super::device::Parts;
use super::kernels::{Family, Kernel, Units};
use super::memory::{Block, Slab, Weights};
use super::params;
use super::pipelines::Dispatch;
use crate::backend::DeviceError;
use crate::kernel::{Buffer, Call, Projection};
use crate::quant::{DType, Packing};

/// Rounded activations, shared by the projections of a call and by all calls.
#[derive(Default)]
pub(super) struct Scratch {
    quants: Option<Block>,
    scales: Option<Block>,
}

impl Scratch {
    /// Makes room for `blocks` blocks of 32 columns.
    fn reserve(&mut self, parts: &mut Parts, blocks: u64) -> Result<(&Block, &Block), DeviceError> {
        grow(&mut self.quants, parts, blocks * QUANT_BYTES)?;
        grow(&mut self.scales, parts, blocks * 8)?;
        match (&self.quants, &self.scales) {
            (Some(quants), Some(scales)) => Ok((quants, scales)),
            _ => unreachable!("both were just reserved"),
        }
    }
}

fn grow(slot: &mut Option<Block>, parts: &mut Parts, bytes: u64) -> Result<(), DeviceError> {
    if slot.as_ref().is_some_and(|block| block.buffer.size() >= bytes) {
        return Ok(());
    }
    if let Some(old) = slot.take() {
        parts.pipelines.forget(&old);
        parts.memory.release(&old);
    }
    *slot = Some(parts.memory.block(&parts.context, bytes, "rounded activations")?);
    Ok(())
}

/// Bytes of the rounded quants of 32 columns.
const QUANT_BYTES: u64 = 64;

/// Blocks of 32 columns that the largest of these calls rounds.
fn blocks_max(calls: &[Call]) -> u64 {
    let blocks = calls.iter().map(|call| match call {
        Call::Linear { rows, cols, projections, .. } if rounds(projections) => rows * cols / 32,
        _ => 0,
    });
    blocks.max().unwrap_or(0) as u64
}

/// Bytes that [`Scratch`] grows to for these calls.
pub(super) fn working_bytes(calls: &[Call]) -> u64 {
    blocks_max(calls) * (QUANT_BYTES + 8)
}

/// Grows [`Scratch`] to what these calls need.
pub(super) fn reserve(
    parts: &mut Parts,
    scratch: &mut Scratch,
    calls: &[Call],
) -> Result<(), DeviceError> {
    let blocks = blocks_max(calls);
    if blocks > 0 {
        scratch.reserve(parts, blocks)?;
    }
    Ok(())
}

fn rounds(projections: &[Projection]) -> bool {
    projections.iter().any(|p| !p.weight.dtype.is_float())
}

/// Appends the dispatches of one linear call.
pub(super) fn linear(
    parts: &mut Parts,
    scratch: &mut Scratch,
    (x, rows, cols): (Buffer, usize, usize),
    projections: &[Projection],
    list: &mut Vec<Dispatch>,
) -> Result<(), DeviceError> {
    let rounded = rounds(projections);
    let family = parts.family;
    let blocks = (rows * cols / 32) as u64;
    let operands = if rounded {
        let (quants, scales) = scratch.reserve(parts, blocks)?;
        list.push(parts.pipelines.dispatch(
            &parts.context.device,
            Kernel::Quantize(family),
            &[parts.memory.buffer(x), quants, scales],
            &params::Count { count: blocks as u32 },
            super::call::fold(blocks.div_ceil(64)),
            blocks as f64 * 256.0,
        ));
        Some((quants, scales))
    } else {
        None
    };
    for projection in projections {
        let weights = parts.memory.matrix(&projection.weight);
        let x = parts.memory.buffer(x);
        let out = parts.memory.buffer(projection.out);
        let bias = projection.bias.map(|bias| parts.memory.buffer(bias));
        let unused = &parts.empty;
        for slab in &weights.slabs {
            let mut base = parameters(weights, slab, rows, projection);
            base.bias = u32::from(bias.is_some());
            let bias = bias.unwrap_or(unused);
            for run in runs(weights.packing, slab.outs, rows, parts.cost_max) {
                let dtype = weights.packing.dtype;
                let shape = shape((family, parts.units), dtype, run.rows);
                let operands = match (dtype.is_float(), operands) {
                    (false, Some((quants, scales))) => {
                        vec![&slab.block, quants, scales, bias, out]
                    }
                    _ => vec![&slab.block, x, bias, out],
                };
                list.push(parts.pipelines.dispatch(
                    &parts.context.device,
                    shape.kernel,
                    &operands,
                    &params::Matmul { row_first: run.first as u32, ..base },
                    shape.grid(slab.outs, run.rows),
                    2.0 * (run.rows * slab.outs * weights.packing.cols) as f64,
                ));
            }
        }
    }
    Ok(())
}

fn parameters(
    weights: &Weights,
    slab: &Slab,
    rows: usize,
    projection: &Projection,
) -> params::Matmul {
    let packing = weights.packing;
    let vectors = |bytes: usize| (bytes / 16) as u32;
    params::Matmul {
        cols: packing.cols as u32,
        rows: rows as u32,
        row_first: 0,
        outs: projection.stride as u32,
        out_first: (projection.first + slab.first) as u32,
        slab_outs: slab.outs as u32,
        tile: vectors(packing.tile_bytes()),
        high: vectors(packing.high_at()),
        scales: vectors(packing.scales_at()),
        supers: vectors(packing.super_at()),
        bias: 0,
    }
}

/// Rows of one dispatch.
struct Run {
    first: usize,
    rows: usize,
}

/// Cuts rows so that no dispatch costs more than `cost_max`, in multiples of every kernel's rows.
fn runs(packing: Packing, outs: usize, rows: usize, cost_max: f64) -> Vec<Run> {
    let row_cost = 2.0 * (outs * packing.cols) as f64;
    let most = ((cost_max / row_cost) as usize).clamp(1, 1 << 16).next_multiple_of(64);
    let cut = |first: usize| Run { first, rows: most.min(rows - first) };
    (0..rows).step_by(most).map(cut).collect()
}

/// How a kernel divides its outputs: outputs and rows of one workgroup.
struct Shape {
    kernel: Kernel,
    outs: usize,
    rows: usize,
}

impl Shape {
    fn grid(&self, outs: usize, rows: usize) -> [u32; 2] {
        [outs.div_ceil(self.outs) as u32, rows.div_ceil(self.rows) as u32]
    }
}

/// Rows up to which [`Kernel::Few`] is the fastest: on an H200 it reaches 14 TFLOP/s at 16 rows of a matrix of
/// 4096 x 4096 and 24 at 64, where tiles of 64 rows, which are few, leave most cores idle (3 and 10).
const FEW: usize = 96;

/// The kernels of these projections, whatever the rows.
pub(super) fn linear_kernels(
    (family, units): (Family, Option<Units>),
    projections: &[Projection],
) -> Vec<Kernel> {
    let rounding = rounds(projections).then_some(Kernel::Quantize(family));
    let products = projections.iter().flat_map(|projection| {
        let of = |rows| shape((family, units), projection.weight.dtype, rows).kernel;
        [1, FEW, FEW + 1].map(of)
    });
    rounding.into_iter().chain(products).collect()
}

fn shape((family, units): (Family, Option<Units>), dtype: DType, rows: usize) -> Shape {
    let matvec = Kernel::Matvec(family, dtype);
    let matmul = match units.filter(|_| family == Family::Tiles && !dtype.is_float()) {
        Some(units) => Kernel::Matrices(units, dtype),
        None => Kernel::Matmul(family, dtype),
    };
    match (family, rows) {
        (Family::Lanes, 1) => Shape { kernel: matvec, outs: 32, rows: 1 },
        (Family::Lanes, _) if dtype.is_float() => Shape { kernel: matmul, outs: 32, rows: 8 },
        (Family::Lanes, _) => Shape { kernel: matmul, outs: 64, rows: 8 },
        (Family::Tiles, 1) => Shape { kernel: matvec, outs: 16, rows: 1 },
        (Family::Tiles, 2..=4) if dtype.is_float() => Shape { kernel: matvec, outs: 16, rows: 1 },
        (Family::Tiles, 2..=FEW) if !dtype.is_float() => {
            Shape { kernel: Kernel::Few(dtype), outs: 16, rows: 4 }
        }
        (Family::Tiles, _) => Shape { kernel: matmul, outs: 64, rows: 64 },
    }
}
