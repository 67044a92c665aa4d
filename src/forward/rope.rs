//! Rotary angles, computed on the host so that every device rotates by the same numbers.

use crate::model::RopeSpec;

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
