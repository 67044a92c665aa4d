//! The paged KV cache and attention over it.

use crate::kernel::{AttentionRow, CacheLayout, Call, PAGE_LEN};
use half::f16;

/// Stores keys and values, rounded to 16 bits, in their slots.
pub(super) fn append(
    k: &[f32],
    v: &[f32],
    cache: &mut [f16],
    slots: &[u32],
    rows: usize,
    layout: CacheLayout,
) {
    let width = layout.width();
    for (row, &slot) in slots[..rows].iter().enumerate() {
        for i in 0..width {
            cache[layout.key_at(slot as usize) + i] = f16::from_f32(k[row * width + i]);
            cache[layout.value_at(slot as usize) + i] = f16::from_f32(v[row * width + i]);
        }
    }
}

/// The cache slot of logical position `p` of a row.
fn slot(row: &AttentionRow, pages: &[u32], path: &[u32], p: usize) -> usize {
    if p < row.prefix as usize {
        pages[row.page_start as usize + p / PAGE_LEN] as usize * PAGE_LEN + p % PAGE_LEN
    } else {
        path[row.path_start as usize + p - row.prefix as usize] as usize
    }
}

/// Softmax attention of each row over its map, in f64.
pub(super) fn attention(
    call: &Call,
    q: &[f32],
    cache: &[f16],
    map: &[AttentionRow],
    (pages, path): (&[u32], &[u32]),
    out: &mut [f32],
) {
    let &Call::Attention { rows, heads, layout, scale, window, .. } = call else {
        unreachable!("only attention calls come here")
    };
    let dim = layout.head_dim;
    let group = heads / layout.kv_heads;
    for (row, map) in map[..rows].iter().enumerate() {
        let length = map.length as usize;
        let first = if window == 0 { 0 } else { length.saturating_sub(window) };
        let slots: Vec<usize> = (first..length).map(|p| slot(map, pages, path, p)).collect();
        for head in 0..heads {
            let at = (row * heads + head) * dim;
            let q = &q[at..][..dim];
            let shift = head / group * dim;
            let scores: Vec<f64> = slots
                .iter()
                .map(|&slot| {
                    let key = &cache[layout.key_at(slot) + shift..][..dim];
                    let dot: f64 = q.iter().zip(key).map(|(&q, k)| f64::from(q) * k.to_f64()).sum();
                    dot * f64::from(scale)
                })
                .collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
            let total: f64 = weights.iter().sum();
            for i in 0..dim {
                let sum: f64 = slots
                    .iter()
                    .zip(&weights)
                    .map(|(&slot, w)| w * cache[layout.value_at(slot) + shift + i].to_f64())
                    .sum();
                out[at + i] = (sum / total) as f32;
            }
        }
    }
}
