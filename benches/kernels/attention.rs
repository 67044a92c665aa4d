//! Attention over paged keys and values in memory: decoding reads them once for each sequence, a chunk of
//! a prompt multiplies with them many times.

use super::ceilings::Ceilings;
use super::{COLD_BYTES, Report, Work, best, put, values};
use forebay::backend::Device;
use forebay::backend::cpu::CpuDevice;
use forebay::kernel::{AttentionRow, Buffer, CacheLayout, Call, KvFormat, PAGE_LEN};

/// Query heads, key/value heads and elements of a head: smollm2-135m, qwen2.5-coder-1.5b, llama-3-8b.
const SHAPES: [(usize, usize, usize); 3] = [(9, 3, 64), (12, 2, 128), (32, 8, 128)];

/// Positions of a sequence.
const CONTEXT: usize = 512;

/// Sequences that are decoded at once, and rows of a chunk of a prompt.
const SEQUENCES: usize = 16;
const CHUNK: usize = 128;

pub(super) fn measure(device: &mut CpuDevice, ceilings: &Ceilings, report: &mut Report) {
    for (heads, kv_heads, head_dim) in SHAPES {
        for format in KvFormat::ALL {
            let layout = CacheLayout { kv_heads, head_dim, format };
            for (kind, sequences, rows) in [("decode", SEQUENCES, 1), ("prefill", 1, CHUNK)] {
                let shape = format!("{heads}/{kv_heads}x{head_dim}");
                let label = format!("attention {kind},{shape},{format},{}", sequences * rows);
                if !report.wants(&label) {
                    continue;
                }
                let (seconds, seen) = seconds(device, layout, heads, (sequences, rows));
                let each = layout.page_bytes() / PAGE_LEN;
                let work = Work {
                    // Two products, of two operations each.
                    operations: 4.0 * (seen * heads * head_dim) as f64,
                    peak: ceilings.f32,
                    bytes: (sequences * CONTEXT * each) as f64,
                };
                report.measured(&label, seconds, &work, ceilings);
            }
        }
    }
}

/// Best seconds of a layer, and positions that its rows see, taken together.
fn seconds(
    device: &mut CpuDevice,
    layout: CacheLayout,
    heads: usize,
    (sequences, rows): (usize, usize),
) -> (f64, usize) {
    let head_dim = layout.head_dim;
    let pages_each = CONTEXT / PAGE_LEN;
    let bytes = sequences * pages_each * layout.page_bytes();
    let layers = COLD_BYTES.div_ceil(bytes);
    let caches: Vec<Buffer> = (0..layers)
        .map(|_| {
            let cache = device.alloc(bytes, "cache").expect("memory");
            fill(device, cache, layout, sequences * CONTEXT);
            cache
        })
        .collect();
    let mut map = Vec::new();
    for sequence in 0..sequences {
        for row in 0..rows {
            let length = (CONTEXT - rows + row + 1) as u32;
            let page_start = (sequence * pages_each) as u32;
            map.push(AttentionRow { page_start, prefix: length, path_start: 0, length });
        }
    }
    let lengths = || map.iter().map(|row| row.length as usize);
    let (seen, longest) = (lengths().sum(), lengths().max().unwrap_or(0));
    // As scattered as a pool of pages becomes.
    let count = sequences * pages_each;
    let table: Vec<u32> = (0..count).map(|page| (page * 7919 % count) as u32).collect();
    let q = put(device, &values(map.len() * heads * head_dim));
    let out = device.alloc(map.len() * heads * head_dim * 4, "out").expect("memory");
    let (rows, map) = (map.len(), put(device, &map));
    let (pages, path) = (put(device, &table), put(device, &[0u32]));
    let scale = 1.0 / (head_dim as f32).sqrt();
    let calls: Vec<Call> = caches
        .iter()
        .map(|&cache| {
            let (key_bias, window) = (None, 0);
            Call::Attention {
                q,
                cache,
                map,
                pages,
                path,
                out,
                rows,
                longest,
                heads,
                layout,
                key_bias,
                scale,
                window,
            }
        })
        .collect();
    let seconds = best(|| device.run(&calls).expect("device")) / layers as f64;
    let others = [q, out, map, pages, path];
    caches.into_iter().chain(others).for_each(|buffer| device.free(buffer));
    (seconds, seen)
}

/// Puts keys and values into all slots of a cache.
fn fill(device: &mut CpuDevice, cache: Buffer, layout: CacheLayout, positions: usize) {
    let rows = 256;
    let (k, v) =
        (put(device, &values(rows * layout.width())), put(device, &values(rows * layout.width())));
    for first in (0..positions).step_by(rows) {
        let slots: Vec<u32> = (first..first + rows).map(|slot| slot as u32).collect();
        let slots = put(device, &slots);
        device.run(&[Call::Append { k, v, cache, slots, rows, layout }]).expect("device");
        device.free(slots);
    }
    [k, v].into_iter().for_each(|buffer| device.free(buffer));
}
