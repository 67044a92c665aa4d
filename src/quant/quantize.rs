//! f32 to blocks, plain rounding: for synthetic models and tests, not a substitute for a tuned quantizer.

use super::DType;
use half::{bf16, f16};

/// Appends `row` encoded as `dtype` to `out`; `row.len()` must fill whole blocks.
pub fn quantize_row(dtype: DType, row: &[f32], out: &mut Vec<u8>) {
    assert!(row.len().is_multiple_of(dtype.block_len()));
    for x in row.chunks_exact(dtype.block_len()) {
        match dtype {
            DType::F32 => out.extend(x[0].to_le_bytes()),
            DType::F16 => out.extend(f16::from_f32(x[0]).to_le_bytes()),
            DType::BF16 => out.extend(bf16::from_f32(x[0]).to_le_bytes()),
            DType::Q8_0 => {
                let d = push_scale(largest(x).abs() / 127.0, out);
                out.extend(x.iter().map(|&v| round(v, d, -127, 127) as u8));
            }
            DType::Q4_0 | DType::Q5_0 => {
                let centre = if dtype == DType::Q4_0 { 8 } else { 16 };
                let d = push_scale(largest(x) / -(centre as f32), out);
                let q: [u8; 32] =
                    std::array::from_fn(|i| (round(x[i], d, -centre, centre - 1) + centre) as u8);
                push_small(dtype == DType::Q5_0, &q, out);
            }
            DType::Q4_1 | DType::Q5_1 => {
                let top = if dtype == DType::Q4_1 { 15 } else { 31 };
                let (low, high) = bounds(x);
                let d = push_scale((high - low) / top as f32, out);
                let min = push_scale(low, out);
                let q: [u8; 32] = std::array::from_fn(|i| round(x[i] - min, d, 0, top) as u8);
                push_small(dtype == DType::Q5_1, &q, out);
            }
            DType::Q4K | DType::Q5K => push_k(dtype, x, out),
            DType::Q6K => push_q6_k(x, out),
        }
    }
}

fn largest(x: &[f32]) -> f32 {
    x.iter().copied().fold(0.0, |best: f32, v| if v.abs() > best.abs() { v } else { best })
}

fn bounds(x: &[f32]) -> (f32, f32) {
    x.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), &v| (a.min(v), b.max(v)))
}

/// Appends `scale` as f16 and returns the value that was stored.
fn push_scale(scale: f32, out: &mut Vec<u8>) -> f32 {
    let stored = f16::from_f32(scale);
    out.extend(stored.to_le_bytes());
    stored.to_f32()
}

fn round(v: f32, d: f32, low: i32, high: i32) -> i32 {
    if d == 0.0 { 0 } else { ((v / d).round() as i32).clamp(low, high) }
}

fn push_small(five_bit: bool, q: &[u8; 32], out: &mut Vec<u8>) {
    if five_bit {
        let high = (0..32).fold(0u32, |h, k| h | u32::from(q[k] >> 4) << k);
        out.extend(high.to_le_bytes());
    }
    out.extend((0..16).map(|i| (q[i] & 0xF) | (q[i + 16] & 0xF) << 4));
}

fn push_k(dtype: DType, x: &[f32], out: &mut Vec<u8>) {
    let top = if dtype == DType::Q4K { 15 } else { 31 };
    let ranges: Vec<(f32, f32)> = x
        .chunks_exact(32)
        .map(|sub| {
            let (low, high) = bounds(sub);
            let low = low.min(0.0);
            ((high.max(0.0) - low) / top as f32, -low)
        })
        .collect();
    let most = |f: fn(&(f32, f32)) -> f32| ranges.iter().map(f).fold(0.0, f32::max);
    let d = push_scale(most(|r| r.0) / 63.0, out);
    let dmin = push_scale(most(|r| r.1) / 63.0, out);
    let codes: Vec<(u8, u8)> = ranges
        .iter()
        .map(|&(s, m)| (round(s, d, 0, 63) as u8, round(m, dmin, 0, 63) as u8))
        .collect();
    let mut packed = [0u8; 12];
    for (j, &(s, m)) in codes.iter().enumerate() {
        if j < 4 {
            packed[j] |= s;
            packed[j + 4] |= m;
        } else {
            packed[j + 4] |= (s & 0xF) | (m & 0xF) << 4;
            packed[j - 4] |= (s >> 4) << 6;
            packed[j] |= (m >> 4) << 6;
        }
    }
    out.extend(packed);
    let q: Vec<u8> = x
        .iter()
        .enumerate()
        .map(|(k, &v)| {
            let (s, m) = codes[k / 32];
            round(v + dmin * f32::from(m), d * f32::from(s), 0, top) as u8
        })
        .collect();
    if dtype == DType::Q5K {
        out.extend((0..32).map(|i| (0..8).fold(0u8, |h, j| h | (q[j * 32 + i] >> 4) << j)));
    }
    out.extend((0..128).map(|i| {
        let at = i / 32 * 64 + i % 32;
        (q[at] & 0xF) | (q[at + 32] & 0xF) << 4
    }));
}

fn push_q6_k(x: &[f32], out: &mut Vec<u8>) {
    let subs: Vec<f32> = x.chunks_exact(16).map(|sub| largest(sub) / -32.0).collect();
    let d = f16::from_f32(largest(&subs).abs() / 127.0);
    let scales: Vec<i32> = subs.iter().map(|&s| round(s, d.to_f32(), -127, 127)).collect();
    let q: Vec<u8> = x
        .iter()
        .enumerate()
        .map(|(k, &v)| (round(v, d.to_f32() * scales[k / 16] as f32, -32, 31) + 32) as u8)
        .collect();
    let at = |half: usize, group: usize, lane: usize| q[half * 128 + group * 32 + lane];
    out.extend((0..128).map(|i| {
        let (h, group, lane) = (i / 64, i % 64 / 32, i % 32);
        (at(h, group, lane) & 0xF) | (at(h, group + 2, lane) & 0xF) << 4
    }));
    out.extend(
        (0..64).map(|i| (0..4).fold(0u8, |top, g| top | (at(i / 32, g, i % 32) >> 4) << (2 * g))),
    );
    out.extend(scales.iter().map(|&s| s as i8 as u8));
    out.extend(d.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::dequantize_row;
    use proptest::prelude::*;

    proptest! {
        /// What comes back lies within the format's step of what went in.
        #[test]
        fn round_trip_is_close(which in 0..DType::ALL.len(), values in prop::collection::vec(-1.0f32..1.0, 256)) {
            let dtype = DType::ALL[which];
            let mut bytes = Vec::new();
            quantize_row(dtype, &values, &mut bytes);
            let mut back = vec![0.0; 256];
            dequantize_row(dtype, &bytes, &mut back);
            let step = match dtype {
                DType::F32 => 0.0,
                DType::F16 => 1e-3,
                DType::BF16 | DType::Q8_0 => 1e-2,
                DType::Q6K => 0.05,
                DType::Q5_0 | DType::Q5_1 | DType::Q5K => 0.1,
                _ => 0.2,
            };
            for (a, b) in values.iter().zip(&back) {
                prop_assert!((a - b).abs() <= step, "{dtype}: {a} became {b}");
            }
        }
    }
}
