//! The paged KV cache and attention over it.

use crate::kernel::{AttentionRow, CacheLayout, Call, PAGE_LEN};
use crate::quant::{Side, decode, encode};
use half::f16;

/// Moves keys and values of slots, in order; `moves` is `[from, to]` after `[from, to]`.
pub(super) fn move_slots(cache: &mut [u8], moves: &[u32], layout: CacheLayout) {
    let (key, value) = (layout.key_bytes(), layout.value_bytes());
    for pair in moves.chunks_exact(2) {
        let [from, to] = [pair[0] as usize, pair[1] as usize];
        let keys = layout.key_at(from)..layout.key_at(from) + key * layout.kv_heads;
        cache.copy_within(keys, layout.key_at(to));
        let values = layout.value_at(from)..layout.value_at(from) + value * layout.kv_heads;
        cache.copy_within(values, layout.value_at(to));
    }
}

/// Stores keys and values in their slots.
pub(super) fn append(
    k: &[f32],
    v: &[f32],
    cache: &mut [u8],
    slots: &[u32],
    rows: usize,
    layout: CacheLayout,
) {
    let dim = layout.head_dim;
    let sides = [
        (Side::Key, k, layout.format.key_bits(), layout.key_bytes()),
        (Side::Value, v, layout.format.value_bits(), layout.value_bytes()),
    ];
    for (row, &slot) in slots[..rows].iter().enumerate() {
        let slot = slot as usize;
        for ((side, x, bits, bytes), at) in
            sides.iter().zip([layout.key_at(slot), layout.value_at(slot)])
        {
            for head in 0..layout.kv_heads {
                let x = &x[(row * layout.kv_heads + head) * dim..][..dim];
                store(x, *bits, *side, &mut cache[at + head * bytes..][..*bytes]);
            }
        }
    }
}

fn store(x: &[f32], bits: usize, side: Side, to: &mut [u8]) {
    if bits < 16 {
        return encode(x, bits, side, to);
    }
    for (x, to) in x.iter().zip(to.as_chunks_mut::<2>().0) {
        *to = f16::from_f32(*x).to_le_bytes();
    }
}

/// The numbers that a cached head stands for.
fn read(from: &[u8], bits: usize, dim: usize) -> Vec<f64> {
    let mut out = vec![0.0; dim];
    if bits < 16 {
        decode(from, bits, &mut out);
    } else {
        let halves = from.as_chunks::<2>().0;
        out.iter_mut().zip(halves).for_each(|(out, h)| *out = f16::from_le_bytes(*h).to_f32());
    }
    out.into_iter().map(f64::from).collect()
}

/// The cache slot of logical position `p` of a row.
fn slot(row: &AttentionRow, pages: &[u32], path: &[u32], p: usize) -> usize {
    if p < row.prefix as usize {
        pages[row.page_start as usize + p / PAGE_LEN] as usize * PAGE_LEN + p % PAGE_LEN
    } else {
        path[row.path_start as usize + p - row.prefix as usize] as usize
    }
}

/// What attention reads.
pub(super) struct Operands<'a> {
    pub(super) q: &'a [f32],
    pub(super) cache: &'a [u8],
    pub(super) map: &'a [AttentionRow],
    pub(super) pages: &'a [u32],
    pub(super) path: &'a [u32],
    /// Coefficients and table of a key bias.
    pub(super) bias: Option<(&'a [f32], &'a [f32])>,
}

/// Softmax attention of each row over its map, in f64.
pub(super) fn attention(call: &Call, operands: &Operands<'_>, out: &mut [f32]) {
    let &Call::Attention { rows, heads, layout, scale, window, .. } = call else {
        unreachable!("only attention calls come here")
    };
    let Operands { q, cache, map, pages, path, bias } = *operands;
    let (dim, group, format) = (layout.head_dim, heads / layout.kv_heads, layout.format);
    let (key_bytes, value_bytes) = (layout.key_bytes(), layout.value_bytes());
    for (row, map) in map[..rows].iter().enumerate() {
        let length = map.length as usize;
        let first = if window == 0 { 0 } else { length.saturating_sub(window) };
        let seen: Vec<(usize, usize)> =
            (first..length).map(|p| (p, slot(map, pages, path, p))).collect();
        for head in 0..heads {
            let at = (row * heads + head) * dim;
            let kv = head / group;
            let score = |&(p, slot): &(usize, usize)| {
                let key = &cache[layout.key_at(slot) + kv * key_bytes..][..key_bytes];
                let lacking = bias.map_or(0.0, |(terms, turns)| {
                    dot(&terms[at..][..dim], turns[p * dim..][..dim].iter().map(|&x| x.into()))
                });
                let key = read(key, format.key_bits(), dim);
                (dot(&q[at..][..dim], key.into_iter()) + lacking) * f64::from(scale)
            };
            let scores: Vec<f64> = seen.iter().map(score).collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mut sums = vec![0.0; dim];
            for ((_, slot), weight) in seen.iter().zip(&weights) {
                let value = &cache[layout.value_at(*slot) + kv * value_bytes..][..value_bytes];
                let value = read(value, format.value_bits(), dim);
                sums.iter_mut().zip(value).for_each(|(sum, v)| *sum += weight * v);
            }
            for (out, sum) in out[at..][..dim].iter_mut().zip(sums) {
                *out = (sum / total) as f32;
            }
        }
    }
}

fn dot(a: &[f32], b: impl Iterator<Item = f64>) -> f64 {
    a.iter().zip(b).map(|(&a, b)| f64::from(a) * b).sum()
}
