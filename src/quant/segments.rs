//! How a packed matrix is cut into segments: what is placed, streamed and cached as one piece.

use super::{Packing, TILE_ROWS};

/// Packed bytes of a segment at most, unless one tile is larger.
pub const SEGMENT_BYTES_MAX: usize = 4 << 20;

/// Segments start at multiples of this in files and rings: what direct reads ask for.
pub const SEGMENT_ALIGN: usize = 4096;

/// A row slab of a matrix: whole tiles (the last may be padded).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First output feature.
    pub first_row: usize,
    /// Output features.
    pub rows: usize,
    /// Bytes in packed order.
    pub bytes: usize,
}

impl Segment {
    /// Bytes that the segment takes in files and rings.
    pub fn padded(&self) -> usize {
        self.bytes.next_multiple_of(SEGMENT_ALIGN)
    }
}

/// The segments of a matrix, in order: the fewest of nearly equal size. Planner, allocator, cache
/// file and ring all cut by this function.
pub fn segments(packing: &Packing) -> Vec<Segment> {
    let (tiles, tile_bytes) = (packing.tiles(), packing.tile_bytes());
    let most = (SEGMENT_BYTES_MAX / tile_bytes).max(1);
    let count = tiles.div_ceil(most);
    let cut = |index: usize| {
        let (first, end) = (index * tiles / count, (index + 1) * tiles / count);
        let first_row = first * TILE_ROWS;
        let rows = (end * TILE_ROWS).min(packing.rows) - first_row;
        Segment { first_row, rows, bytes: (end - first) * tile_bytes }
    };
    (0..count).map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::DType;
    use proptest::prelude::*;

    proptest! {
        /// Segments cover every row once, in order, in whole tiles, and add up to the matrix.
        #[test]
        fn segments_cover_the_matrix(rows in 1usize..40_000, blocks in 1usize..64) {
            let packing = Packing::new(DType::Q4K, rows, blocks * 256);
            let all = segments(&packing);
            let mut next = 0;
            for segment in &all {
                prop_assert_eq!(segment.first_row, next);
                prop_assert!(segment.rows > 0 && segment.first_row.is_multiple_of(TILE_ROWS));
                prop_assert!(segment.bytes <= SEGMENT_BYTES_MAX.max(packing.tile_bytes()));
                prop_assert!(segment.padded().is_multiple_of(SEGMENT_ALIGN));
                next += segment.rows;
            }
            prop_assert_eq!(next, rows);
            let bytes: usize = all.iter().map(|s| s.bytes).sum();
            prop_assert_eq!(bytes, packing.bytes());
        }
    }
}
