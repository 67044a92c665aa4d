//! Keys and values as codes: blocks of 32 elements, with one 16-bit scale where codes have 8 bits, and one
//! for each half where they have 4.
//!
//! What a vector becomes depends on the vector alone, and on every processor it is the same bits: sums
//! have one order, and no product is fused with a sum.

use half::f16;

/// Elements of a block.
pub const GROUP: usize = 32;

/// Lanes that sums run in: what processors add at once.
const LANES: usize = 16;

/// How many steps of a 4-bit code the largest element of half a block may be: all are tried, and the one with
/// the least square error taken. Above 8 the largest is cut off, so that the others have finer steps.
const REACHES: [f32; 12] = [6.5, 7.0, 7.25, 7.5, 7.75, 8.0, 8.25, 8.5, 9.0, 9.5, 10.0, 11.0];

/// Halves of blocks (blocks of 8-bit codes) whose largest element is smaller are all zeros: their scales
/// are below 16-bit floats.
const LEAST: f32 = 1e-6;

/// `x + ROUNDER - ROUNDER` is `x` rounded to a whole number, ties to even, for small `x`.
const ROUNDER: f32 = 12_582_912.0;

/// Bytes of the scales of a vector, which fill 32-bit words.
pub fn scale_bytes(len: usize, bits: usize) -> usize {
    let blocks = len.div_ceil(GROUP);
    if bits == 8 { blocks.next_multiple_of(2) * 2 } else { blocks * 4 }
}

/// Bytes of a vector of `len` elements in codes of `bits` (4 or 8).
pub fn vector_bytes(len: usize, bits: usize) -> usize {
    scale_bytes(len, bits) + len.div_ceil(GROUP) * GROUP * bits / 8
}

/// What the scales of 4-bit codes are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Products with queries: the vector's product with itself stays what it was. The scale with the least
    /// square error shortens it, and with it all products.
    Key,
    /// Sums: the least square error.
    Value,
}

/// Writes `x` as scales, then codes of `bits` (4 or 8) to `out` of [`vector_bytes`]. A block of 8-bit
/// codes is 32 `i8`; of 4-bit codes 16 bytes, the low half of byte `i` being element `i` plus 8, the high
/// half element `i + 16` plus 8.
#[inline(always)]
pub fn encode(x: &[f32], bits: usize, side: Side, out: &mut [u8]) {
    let (scales, codes) = out.split_at_mut(scale_bytes(x.len(), bits));
    let blocks = x.chunks(GROUP).zip(codes.chunks_exact_mut(GROUP * bits / 8));
    let each = GROUP * 2 / if bits == 8 { GROUP } else { LANES };
    for ((x, codes), scales) in blocks.zip(scales.chunks_exact_mut(each)) {
        let mut block = [0.0; GROUP];
        block[..x.len()].copy_from_slice(x);
        let halves = [first_half(&block), second_half(&block)];
        if bits == 8 {
            scales.copy_from_slice(&bytes_of(encode_8(&halves, codes)));
        } else {
            let (low, first) = encode_4(&halves[0], side);
            let (high, second) = encode_4(&halves[1], side);
            for (i, code) in codes.iter_mut().enumerate() {
                *code = (low[i] + 8.0) as u8 | ((high[i] + 8.0) as u8) << 4;
            }
            scales[..2].copy_from_slice(&bytes_of(first));
            scales[2..].copy_from_slice(&bytes_of(second));
        }
    }
}

#[inline(always)]
fn bytes_of(scale: f32) -> [u8; 2] {
    f16::from_f32(scale).to_le_bytes()
}

/// The numbers that `bytes` of [`encode`] stand for.
pub fn decode(bytes: &[u8], bits: usize, out: &mut [f32]) {
    let (scales, codes) = bytes.split_at(scale_bytes(out.len(), bits));
    let scale =
        |index: usize| f16::from_le_bytes([scales[2 * index], scales[2 * index + 1]]).to_f32();
    let blocks = out.chunks_mut(GROUP).zip(codes.chunks_exact(GROUP * bits / 8));
    for (block, (out, codes)) in blocks.enumerate() {
        for (i, out) in out.iter_mut().enumerate() {
            *out = match bits {
                8 => f32::from(codes[i] as i8) * scale(block),
                _ => {
                    let code = f32::from(codes[i % LANES] >> (i / LANES * 4) & 15) - 8.0;
                    code * scale(2 * block + i / LANES)
                }
            };
        }
    }
}

type Lanes = [f32; LANES];

#[inline(always)]
fn first_half(block: &[f32; GROUP]) -> Lanes {
    std::array::from_fn(|i| block[i])
}

#[inline(always)]
fn second_half(block: &[f32; GROUP]) -> Lanes {
    std::array::from_fn(|i| block[i + LANES])
}

/// Sum of the lanes by halves.
#[inline(always)]
fn sum(mut lanes: Lanes) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The largest and the smallest element; 0 if all are on one side of it.
#[inline(always)]
fn extremes(x: &Lanes) -> (f32, f32) {
    let (mut most, mut least) = (*x, *x);
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            most[i] = most[i].max(most[i + width]);
            least[i] = least[i].min(least[i + width]);
        }
        width /= 2;
    }
    (most[0].max(0.0), least[0].min(0.0))
}

/// Codes of `x`, from -8 to 7, for steps of `1 / inverse`.
#[inline(always)]
fn codes_4(x: &Lanes, inverse: f32) -> Lanes {
    std::array::from_fn(|i| {
        let whole = (x[i] * inverse + ROUNDER) - ROUNDER;
        whole.clamp(-8.0, 7.0)
    })
}

/// The codes of half a block, and their scale.
#[inline(always)]
fn encode_4(x: &Lanes, side: Side) -> (Lanes, f32) {
    let (most, least) = extremes(x);
    // The larger side gets the eighth step.
    let peak = if most > -least { most } else { least };
    if peak.abs() < LEAST {
        return ([0.0; LANES], 0.0);
    }
    let whole = sum(std::array::from_fn(|i| x[i] * x[i]));
    let (mut best, mut scale, mut taken) = (-1.0, 0.0, 0.0);
    for reach in REACHES {
        let inverse = -reach / peak;
        let codes = codes_4(x, inverse);
        let dot = sum(std::array::from_fn(|i| x[i] * codes[i]));
        let square = sum(std::array::from_fn(|i| codes[i] * codes[i]));
        // With the best scale for these codes, the square error is that of zeros less this.
        let gain = dot * dot / square;
        if gain > best {
            (best, taken) = (gain, inverse);
            scale = if side == Side::Key { whole / dot } else { dot / square };
        }
    }
    (codes_4(x, taken), scale)
}

#[inline(always)]
fn encode_8(x: &[Lanes; 2], out: &mut [u8]) -> f32 {
    let (first, second) = (extremes(&x[0]), extremes(&x[1]));
    let peak = first.0.max(second.0).max(-first.1.min(second.1));
    if peak < LEAST {
        out.fill(0);
        return 0.0;
    }
    let inverse = 127.0 / peak;
    for (x, out) in x.iter().zip(out.chunks_exact_mut(LANES)) {
        for i in 0..LANES {
            out[i] = ((x[i] * inverse + ROUNDER) - ROUNDER) as i8 as u8;
        }
    }
    peak / 127.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(x: &[f32], bits: usize) -> Vec<f32> {
        let mut bytes = vec![0; vector_bytes(x.len(), bits)];
        encode(x, bits, Side::Value, &mut bytes);
        let mut back = vec![0.0; x.len()];
        decode(&bytes, bits, &mut back);
        back
    }

    fn square_error(x: &[f32], y: &[f32]) -> f64 {
        x.iter().zip(y).map(|(x, y)| f64::from(x - y).powi(2)).sum()
    }

    proptest! {
        /// Half a step at most is lost in 8 bits; in 4, no more than with the plain scale.
        #[test]
        fn vectors_come_back(x in prop::collection::vec(-9.0f32..9.0, 1..100)) {
            for (x, y) in x.chunks(GROUP).zip(round_trip(&x, 8).chunks(GROUP)) {
                let peak = x.iter().fold(0.0f32, |peak, x| peak.max(x.abs()));
                for (x, y) in x.iter().zip(y) {
                    // The scale itself is rounded to 11 bits.
                    prop_assert!((x - y).abs() <= peak / 254.0 + x.abs() / 2000.0, "{x} {y}");
                }
            }
            for (x, y) in x.chunks(LANES).zip(round_trip(&x, 4).chunks(LANES)) {
                let peak = x.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap();
                let step = -peak / 8.0;
                let plain: Vec<f32> =
                    x.iter().map(|x| (x / step).round().clamp(-8.0, 7.0) * step).collect();
                let (plain, found) = (square_error(x, &plain), square_error(x, y));
                prop_assert!(found <= plain * 1.01 + 1e-5 * f64::from(peak * peak));
            }
        }
    }

    #[test]
    fn zeros_and_what_is_not_finite_do_no_harm() {
        for bits in [4, 8] {
            assert_eq!(round_trip(&[0.0; 40], bits), [0.0; 40]);
            assert_eq!(round_trip(&[1e-9; 5], bits), [0.0; 5]);
            for bad in [f32::INFINITY, f32::NAN, f32::MAX] {
                let mut x = [1.0; 64];
                x[3] = bad;
                assert_eq!(round_trip(&x, bits)[GROUP..], round_trip(&[1.0; GROUP], bits));
            }
        }
    }

    #[test]
    fn vectors_fill_words() {
        assert_eq!([64, 128, 256, 20, 96].map(|len| vector_bytes(len, 4)), [40, 80, 160, 20, 60]);
        assert_eq!([64, 128, 20].map(|len| vector_bytes(len, 8)), [68, 136, 36]);
    }
}
