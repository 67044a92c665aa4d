//! Rotary angles, computed on the host so that every device rotates by the same numbers.

use crate::model::RopeSpec;

/// Fills `out` with `[position][cos of each pair, then sin of each pair]` of positions from 0 to `count`:
/// the turns of [`crate::kernel::KeyBias`].
pub fn turns(rope: &RopeSpec, count: usize, out: &mut Vec<f32>) {
    let pairs = rope.inv_freq.len();
    let mut row = Vec::new();
    out.clear();
    for position in 0..count as u32 {
        angles(rope, &[position], &mut row);
        out.extend((0..pairs).map(|pair| row[2 * pair]));
        out.extend((0..pairs).map(|pair| row[2 * pair + 1]));
    }
}

/// Fills `out` with `[row][pair][cos, sin]` of `positions` (RoFormer, eq. 15).
pub fn angles(rope: &RopeSpec, positions: &[u32], out: &mut Vec<f32>) {
    out.clear();
    for &position in positions {
        for &inv_freq in &rope.inv_freq {
            // The product is rounded to f32 as in the published models' code.
            let theta = f64::from(position as f32 * inv_freq);
            out.extend([theta.cos() as f32, theta.sin() as f32]);
        }
    }
}
