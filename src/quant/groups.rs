//! Keys and values as codes: groups of 32 elements with a 16-bit scale each.
//!
//! What a vector becomes depends on the vector alone, and on every processor it is the same bits: sums
//! have one order, and no product is fused with a sum.

use half::f16;

/// Elements that share a scale.
pub const GROUP: usize = 32;

/// Lanes that sums run in: what processors add at once.
const LANES: usize = 16;

/// How many steps of a 4-bit code the largest element of a group may be: all are tried, and the one with
/// the least square error taken. Above 8 the largest is cut off, so that the others have finer steps.
pub const REACHES: [f32; 12] = [6.5, 7.0, 7.25, 7.5, 7.75, 8.0, 8.25, 8.5, 9.0, 9.5, 10.0, 11.0];

/// Groups whose largest element is smaller are all zeros: their scales are below 16-bit floats.
pub const LEAST: f32 = 1e-6;

/// `x + ROUNDER - ROUNDER` is `x` rounded to a whole number, ties to even, for small `x`.
const ROUNDER: f32 = 12_582_912.0;

/// Bytes of the scales of a vector, which fill 32-bit words.
pub fn scale_bytes(len: usize) -> usize {
    len.div_ceil(GROUP).next_multiple_of(2) * 2
}

/// Bytes of a vector of `len` elements in codes of `bits` (4 or 8).
pub fn vector_bytes(len: usize, bits: usize) -> usize {
    scale_bytes(len) + len.div_ceil(GROUP) * GROUP * bits / 8
}

/// Writes `x` as scales, then codes of `bits` (4 or 8) to `out` of [`vector_bytes`]. A group of 8-bit
/// codes is 32 `i8`; of 4-bit codes 16 bytes, the low half of byte `i` being element `i` plus 8, the high
/// half element `i + 16` plus 8.
#[inline(always)]
pub fn encode(x: &[f32], bits: usize, out: &mut [u8]) {
    let (scales, codes) = out.split_at_mut(scale_bytes(x.len()));
    let groups = x.chunks(GROUP).zip(codes.chunks_exact_mut(GROUP * bits / 8));
    for ((x, codes), scale) in groups.zip(scales.as_chunks_mut::<2>().0) {
        let mut group = [0.0; GROUP];
        group[..x.len()].copy_from_slice(x);
        let halves = [first_half(&group), second_half(&group)];
        let found = if bits == 8 { encode_8(&halves, codes) } else { encode_4(&halves, codes) };
        *scale = f16::from_f32(found).to_bits().to_le_bytes();
    }
}

/// The numbers that `bytes` of [`encode`] stand for.
pub fn decode(bytes: &[u8], bits: usize, out: &mut [f32]) {
    let (scales, codes) = bytes.split_at(scale_bytes(out.len()));
    let groups = out.chunks_mut(GROUP).zip(codes.chunks_exact(GROUP * bits / 8));
    for ((out, codes), scale) in groups.zip(scales.as_chunks::<2>().0) {
        let scale = f16::from_le_bytes(*scale).to_f32();
        for (i, out) in out.iter_mut().enumerate() {
            let code = match bits {
                8 => f32::from(codes[i] as i8),
                _ => f32::from(codes[i % 16] >> (i / 16 * 4) & 15) - 8.0,
            };
            *out = code * scale;
        }
    }
}

type Lanes = [f32; LANES];

#[inline(always)]
fn first_half(group: &[f32; GROUP]) -> Lanes {
    std::array::from_fn(|i| group[i])
}

#[inline(always)]
fn second_half(group: &[f32; GROUP]) -> Lanes {
    std::array::from_fn(|i| group[i + LANES])
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
fn extremes(x: &[Lanes; 2]) -> (f32, f32) {
    let mut most: Lanes = std::array::from_fn(|i| x[0][i].max(x[1][i]));
    let mut least: Lanes = std::array::from_fn(|i| x[0][i].min(x[1][i]));
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

#[inline(always)]
fn encode_4(x: &[Lanes; 2], out: &mut [u8]) -> f32 {
    let (most, least) = extremes(x);
    // The larger side gets the eighth step.
    let peak = if most > -least { most } else { least };
    if peak.abs() < LEAST {
        out.fill(0x88);
        return 0.0;
    }
    let (mut best, mut scale, mut taken) = (-1.0, 0.0, 0.0);
    for reach in REACHES {
        let inverse = -reach / peak;
        let codes = [codes_4(&x[0], inverse), codes_4(&x[1], inverse)];
        let dot = sum(std::array::from_fn(|i| x[0][i] * codes[0][i] + x[1][i] * codes[1][i]));
        let square =
            sum(std::array::from_fn(|i| codes[0][i] * codes[0][i] + codes[1][i] * codes[1][i]));
        // With the best scale for these codes, the square error is that of zeros less this.
        let gain = dot * dot / square;
        if gain > best {
            (best, scale, taken) = (gain, dot / square, inverse);
        }
    }
    let codes = [codes_4(&x[0], taken), codes_4(&x[1], taken)];
    for (i, out) in out.iter_mut().enumerate() {
        *out = (codes[0][i] + 8.0) as u8 | ((codes[1][i] + 8.0) as u8) << 4;
    }
    scale
}

#[inline(always)]
fn encode_8(x: &[Lanes; 2], out: &mut [u8]) -> f32 {
    let (most, least) = extremes(x);
    let peak = most.max(-least);
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
        encode(x, bits, &mut bytes);
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
            for (x, y) in x.chunks(GROUP).zip(round_trip(&x, 4).chunks(GROUP)) {
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
                assert_eq!(round_trip(&x, bits)[32..], round_trip(&[1.0; 32], bits));
            }
        }
    }

    #[test]
    fn vectors_fill_words() {
        assert_eq!([64, 128, 256, 20, 96].map(|len| vector_bytes(len, 4)), [36, 72, 144, 20, 56]);
        assert_eq!([64, 128, 20].map(|len| vector_bytes(len, 8)), [68, 136, 36]);
    }
}
