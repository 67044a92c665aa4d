//! Calls as dispatches.

use super::device::Parts;
use super::kernels::{Family, Kernel, Units, VECTORS_MAX};
use super::linear::{Scratch, linear, linear_kernels};
use super::params;
use super::pipelines::Dispatch;
use crate::backend::DeviceError;
use crate::kernel::{Activation, Buffer, CacheLayout, Call, KvFormat, RopeStyle, rotation_block};
use crate::quant::GROUP;

/// Workgroups per dimension that every adapter allows.
const GRID_MAX: u64 = 65535;

/// A one-dimensional grid folded into two; kernels skip what lies past their end.
pub(super) fn fold(groups: u64) -> [u32; 2] {
    let width = groups.clamp(1, GRID_MAX);
    [width as u32, groups.div_ceil(width).max(1) as u32]
}

/// Longest head that `attention.wgsl` keeps in workgroup memory.
const HEAD_DIM_MAX: usize = 256;

/// Whether the attention kernels can work on such a cache; 16-bit keys must fill words.
fn supported(layout: CacheLayout) -> bool {
    layout.head_dim.is_multiple_of(2) && layout.head_dim <= HEAD_DIM_MAX
}

/// Appends the dispatches of `call`.
pub(super) fn plan(
    parts: &mut Parts,
    scratch: &mut Scratch,
    call: &Call,
    list: &mut Vec<Dispatch>,
) -> Result<(), DeviceError> {
    if let Call::Linear { x, rows, cols, projections } = call {
        if *rows > 0 {
            linear(parts, scratch, (*x, *rows, *cols), projections, list)?;
        }
        return Ok(());
    }
    match call {
        Call::Append { layout, .. }
        | Call::Attention { layout, .. }
        | Call::Move { layout, .. }
            if !supported(*layout) =>
        {
            return Err(DeviceError::Unavailable(format!(
                "{} handles heads of an even number of elements up to {HEAD_DIM_MAX}, not {}; use \
                 the cpu device",
                parts.context.info.name, layout.head_dim
            )));
        }
        Call::Attention { .. } => attention(parts, call, list),
        _ => list.extend(simple(parts, call)),
    }
    Ok(())
}

/// Calls that are one dispatch; `None` where there is nothing to do.
fn simple(parts: &mut Parts, call: &Call) -> Option<Dispatch> {
    let count = |n: usize| u32::try_from(n).expect("an activation has fewer than 2^32 elements");
    let threads = |n: usize| fold(n.div_ceil(64) as u64);
    let pairwise =
        |n: usize, second: usize| params::Pairwise { count: count(n), second: count(second) };
    match *call {
        Call::RmsNorm { x, weight, out, rows, cols, eps } => {
            let kernel = Kernel::RmsNorm(parts.family);
            let groups = match parts.family {
                Family::Lanes => rows.div_ceil(8),
                Family::Tiles => rows,
            };
            let params = params::Norm { rows: count(rows), cols: count(cols), eps };
            let grid = fold(groups as u64);
            dispatch(parts, kernel, &[x, weight, out], &params, grid, rows * cols)
        }
        Call::Rope { x, angles, rows, heads, head_dim, pairs, style } => {
            let params = params::Rope {
                count: count(rows * heads * pairs),
                heads: count(heads),
                head_dim: count(head_dim),
                pairs: count(pairs),
                halves: u32::from(style == RopeStyle::Halves),
            };
            let n = rows * heads * pairs;
            dispatch(parts, Kernel::Rope, &[x, angles], &params, threads(n), n)
        }
        Call::Gate { gate, up, out, count: n, activation } => {
            let params = pairwise(n, usize::from(activation == Activation::GeluTanh));
            dispatch(parts, Kernel::Gate, &[gate, up, out], &params, threads(n), n)
        }
        Call::Add { x, y, count: n } => {
            let params = params::Count { count: count(n) };
            dispatch(parts, Kernel::Add, &[x, y], &params, threads(n), n)
        }
        Call::Gather { x, index, out, first, rows, cols } => {
            let n = rows * cols;
            let (count, cols, first) = (count(n), count(cols), count(first * cols));
            let params = params::Gather { count, cols, first };
            dispatch(parts, Kernel::Gather, &[x, index, out], &params, threads(n), n)
        }
        Call::Rotate { .. } | Call::BiasTerms { .. } | Call::Append { .. } => around(parts, call),
        Call::Move { cache, moves, count, layout } => moved(parts, (cache, moves, count), layout),
        Call::Linear { .. } | Call::Attention { .. } => unreachable!("planned elsewhere"),
    }
}

/// What stands between rotated heads and attention over the cache.
fn around(parts: &mut Parts, call: &Call) -> Option<Dispatch> {
    let count = |n: usize| u32::try_from(n).expect("an activation has fewer than 2^32 elements");
    let threads = |n: usize| fold(n.div_ceil(64) as u64);
    match *call {
        Call::Rotate { x, rows, heads, head_dim } => {
            let len = rotation_block(head_dim);
            let blocks = rows * heads * head_dim / len;
            let scale = 1.0 / (len as f32).sqrt();
            let params = params::Rotate { count: count(blocks), len: count(len), scale };
            let groups = match parts.family {
                Family::Lanes => blocks.div_ceil(8),
                Family::Tiles => blocks,
            };
            let kernel = Kernel::Rotate(parts.family);
            dispatch(parts, kernel, &[x], &params, fold(groups as u64), 4 * blocks * len)
        }
        Call::BiasTerms { q, bias, out, rows, heads, kv_heads, head_dim, style } => {
            let n = rows * heads * head_dim / 2;
            let params = params::Terms {
                count: count(n),
                heads: count(heads),
                group: count(heads / kv_heads),
                pairs: count(head_dim / 2),
                halves: u32::from(style == RopeStyle::Halves),
            };
            dispatch(parts, Kernel::BiasTerms, &[q, bias, out], &params, threads(n), n)
        }
        Call::Append { k, v, cache, slots, rows, layout } if layout.format.is_compressed() => {
            let pairs = layout.head_dim.div_ceil(2 * GROUP);
            let n = 2 * rows * layout.kv_heads * pairs;
            let params = params::AppendCodes {
                count: count(n),
                pairs: count(pairs),
                kv_heads: count(layout.kv_heads),
                head_dim: count(layout.head_dim),
                page: count(layout.page_bytes() / 4),
                key: count(layout.key_bytes() / 4),
                value: count(layout.value_bytes() / 4),
                key_bits: count(layout.format.key_bits()),
            };
            let touched = 16 * rows * layout.width();
            dispatch(
                parts,
                Kernel::AppendCodes,
                &[k, v, slots, cache],
                &params,
                threads(n),
                touched,
            )
        }
        Call::Append { k, v, cache, slots, rows, layout } => {
            let width = layout.width() / 2;
            let n = rows * width;
            let params = params::Pairwise { count: count(n), second: count(width) };
            dispatch(parts, Kernel::Append, &[k, v, slots, cache], &params, threads(n), n)
        }
        _ => unreachable!("planned elsewhere"),
    }
}

/// Moves of cache slots.
fn moved(
    parts: &mut Parts,
    (cache, moves, count): (Buffer, Buffer, usize),
    layout: CacheLayout,
) -> Option<Dispatch> {
    let words = |bytes: usize| (bytes * layout.kv_heads / 4) as u32;
    let (key, value) = (words(layout.key_bytes()), words(layout.value_bytes()));
    let page = (layout.page_bytes() / 4) as u32;
    let params = params::Move { count: count as u32, page, key, value };
    let each = (key + value) as usize;
    let grid = fold(each.div_ceil(64) as u64);
    dispatch(parts, Kernel::Move, &[moves, cache], &params, grid, count * each)
}

fn dispatch(
    parts: &mut Parts,
    kernel: Kernel,
    buffers: &[Buffer],
    params: &impl bytemuck::Pod,
    grid: [u32; 2],
    elements: usize,
) -> Option<Dispatch> {
    let blocks: Vec<_> = buffers.iter().map(|b| parts.memory.buffer(*b)).collect();
    let device = &parts.context.device;
    // Memory traffic costs about as much as sixteen operations of a matrix product.
    let cost = 16.0 * elements as f64;
    (elements > 0).then(|| parts.pipelines.dispatch(device, kernel, &blocks, params, grid, cost))
}

fn attention_kernel(family: Family, layout: CacheLayout, biased: bool) -> Kernel {
    let whole = layout.head_dim.is_multiple_of(8) && layout.head_dim <= VECTORS_MAX;
    match (family, layout.format, biased) {
        (Family::Lanes, KvFormat::F16, false) if whole => Kernel::AttentionVectors,
        (family, format, biased) => Kernel::Attention(family, format, biased),
    }
}

/// The kernels that a call takes, whatever its rows.
pub(super) fn kernels((family, units): (Family, Option<Units>), call: &Call) -> Vec<Kernel> {
    match call {
        Call::Linear { projections, .. } => linear_kernels((family, units), projections),
        Call::RmsNorm { .. } => vec![Kernel::RmsNorm(family)],
        Call::Rope { .. } => vec![Kernel::Rope],
        Call::Gate { .. } => vec![Kernel::Gate],
        Call::Add { .. } => vec![Kernel::Add],
        Call::Gather { .. } => vec![Kernel::Gather],
        Call::Rotate { .. } => vec![Kernel::Rotate(family)],
        Call::BiasTerms { .. } => vec![Kernel::BiasTerms],
        Call::Append { layout, .. } if layout.format.is_compressed() => vec![Kernel::AppendCodes],
        Call::Append { .. } => vec![Kernel::Append],
        Call::Move { .. } => vec![Kernel::Move],
        Call::Attention { layout, key_bias, .. } => {
            vec![attention_kernel(family, *layout, key_bias.is_some())]
        }
    }
}

fn attention(parts: &mut Parts, call: &Call, list: &mut Vec<Dispatch>) {
    #[rustfmt::skip]
    let &Call::Attention {
        q, cache, map, pages, path, out, rows, longest, heads, layout, key_bias, scale, window,
    } = call else {
        unreachable!("only attention calls come here")
    };
    let mut buffers = vec![q, cache, map, pages, path, out];
    buffers.extend(key_bias.iter().flat_map(|bias| [bias.terms, bias.turns]));
    let blocks: Vec<_> = buffers.iter().map(|b| parts.memory.buffer(*b)).collect();
    let kernel = attention_kernel(parts.family, layout, key_bias.is_some());
    let seen = if window > 0 { longest.min(window) } else { longest };
    let row_cost = (16 * heads * layout.head_dim) as f64 * seen.max(1) as f64;
    let most = ((parts.cost_max / row_cost) as usize).max(1);
    for first in (0..rows).step_by(most) {
        let run = most.min(rows - first);
        let params = params::Attention {
            rows: run as u32,
            row_first: first as u32,
            heads: heads as u32,
            group: (heads / layout.kv_heads) as u32,
            head_dim: layout.head_dim as u32,
            page: (layout.page_bytes() / 4) as u32,
            key: (layout.key_bytes() / 4) as u32,
            value: (layout.value_bytes() / 4) as u32,
            window: window as u32,
            scale,
        };
        let groups = match parts.family {
            Family::Lanes => run * layout.kv_heads * (heads / layout.kv_heads).div_ceil(4),
            Family::Tiles => run * heads,
        };
        list.push(parts.pipelines.dispatch(
            &parts.context.device,
            kernel,
            &blocks,
            &params,
            fold(groups as u64),
            run as f64 * row_cost,
        ));
    }
}
