//! Blocks to f32, one row at a time: the definition every fast path is compared with.

use super::DType;
use half::{bf16, f16};

fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// The 6-bit scale and minimum of sub-block `j` (0..8) from a K-quant's 12 packed bytes.
pub fn k_scale_min(packed: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (
            (packed[j + 4] & 0xF) | ((packed[j - 4] >> 6) << 4),
            (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4),
        )
    }
}

/// Expands a row of `out.len()` elements stored as `dtype` in `bytes`.
///
/// `bytes.len()` must be `dtype.row_bytes(out.len())`.
pub fn dequantize_row(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), dtype.row_bytes(out.len()), "row of {dtype} has the wrong length");
    let blocks = bytes.chunks_exact(dtype.block_bytes());
    for (block, y) in blocks.zip(out.chunks_exact_mut(dtype.block_len())) {
        match dtype {
            DType::F32 => y[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
            DType::F16 => y[0] = f16_at(block, 0),
            DType::BF16 => y[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32(),
            DType::Q8_0 => {
                let d = f16_at(block, 0);
                for (y, &q) in y.iter_mut().zip(&block[2..]) {
                    *y = d * f32::from(q as i8);
                }
            }
            DType::Q4_0 | DType::Q4_1 | DType::Q5_0 | DType::Q5_1 => small_block(dtype, block, y),
            DType::Q4K | DType::Q5K => k_block(dtype, block, y),
            DType::Q6K => q6_k_block(block, y),
        }
    }
}

/// Q4_0, Q4_1, Q5_0, Q5_1: 32 elements, low nibbles first, then high nibbles.
fn small_block(dtype: DType, block: &[u8], y: &mut [f32]) {
    let five_bit = matches!(dtype, DType::Q5_0 | DType::Q5_1);
    let affine = matches!(dtype, DType::Q4_1 | DType::Q5_1);
    let d = f16_at(block, 0);
    let (min, rest) = if affine { (f16_at(block, 2), &block[4..]) } else { (0.0, &block[2..]) };
    let (high, quants) = if five_bit {
        (u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]), &rest[4..])
    } else {
        (0, rest)
    };
    let centre = match (affine, five_bit) {
        (true, _) => 0,
        (false, false) => 8,
        (false, true) => 16,
    };
    for (i, y) in y.iter_mut().enumerate() {
        let nibble = if i < 16 { quants[i] & 0xF } else { quants[i - 16] >> 4 };
        let q = i32::from(nibble) | ((high >> i & 1) << 4) as i32;
        *y = d * (q - centre) as f32 + min;
    }
}

/// Q4_K and Q5_K: sub-block pairs share 32 bytes, low nibbles then high nibbles.
fn k_block(dtype: DType, block: &[u8], y: &mut [f32]) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    let scales = &block[4..16];
    let (high, quants) = if dtype == DType::Q5K {
        (&block[16..48], &block[48..176])
    } else {
        (&[0u8; 32][..], &block[16..144])
    };
    for (j, y) in y.chunks_exact_mut(32).enumerate() {
        let (scale, min) = k_scale_min(scales, j);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        for (i, y) in y.iter_mut().enumerate() {
            let byte = quants[j / 2 * 32 + i];
            let nibble = if j % 2 == 0 { byte & 0xF } else { byte >> 4 };
            let q = nibble | (high[i] >> j & 1) << 4;
            *y = scale * f32::from(q) - min;
        }
    }
}

/// Q6_K: two halves of 128; in each, four groups of 32 share 64 low bytes and 32 high bytes.
fn q6_k_block(block: &[u8], y: &mut [f32]) {
    let (low, high) = (&block[..128], &block[128..192]);
    let scales = &block[192..208];
    let d = f16_at(block, 208);
    for (i, y) in y.iter_mut().enumerate() {
        let (half, group, lane) = (i / 128, i % 128 / 32, i % 32);
        let byte = low[half * 64 + group % 2 * 32 + lane];
        let nibble = if group < 2 { byte & 0xF } else { byte >> 4 };
        let top = high[half * 32 + lane] >> (2 * group) & 3;
        let q = i32::from(nibble | top << 4) - 32;
        *y = d * f32::from(scales[i / 16] as i8) * q as f32;
    }
}
