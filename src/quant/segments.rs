//! How a packed matrix is cut into pieces that are read, kept and streamed whole.

use super::{Packing, TILE_ROWS};

/// Bytes of a segment at most, padding included (a single tile larger than that is one segment).
pub const SEGMENT_BYTES_MAX: usize = 4 << 20;

/// What positions in files, lengths of reads and addresses of buffers are multiples of.
pub const IO_ALIGN: usize = 4096;

/// A row slab of whole tiles of a packed matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First row (output feature); a multiple of [`TILE_ROWS`].
    pub first_row: usize,
    /// Rows; a multiple of [`TILE_ROWS`] but for the last segment.
    pub rows: usize,
    /// Packed bytes, those of a padded last tile included.
    pub bytes: usize,
}

impl Segment {
    /// Bytes that are read and kept: the next multiple of [`IO_ALIGN`].
    pub fn padded(&self) -> usize {
        self.bytes.next_multiple_of(IO_ALIGN)
    }
}

/// Cuts a matrix into the fewest segments of at most [`SEGMENT_BYTES_MAX`], as equal as tiles allow.
///
/// Planner, allocator, cache file and ring all cut by this function.
pub fn segments(packing: &Packing) -> impl ExactSizeIterator<Item = Segment> + use<> {
    let (rows, tiles, tile_bytes) = (packing.rows, packing.tiles(), packing.tile_bytes());
    let count = tiles.div_ceil((SEGMENT_BYTES_MAX / tile_bytes.max(1)).max(1));
    (0..count).map(move |index| {
        let (start, end) = (index * tiles / count, (index + 1) * tiles / count);
        let first_row = start * TILE_ROWS;
        let rows = rows.min(end * TILE_ROWS) - first_row;
        Segment { first_row, rows, bytes: (end - start) * tile_bytes }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::DType;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn segments_cover_a_matrix_evenly(
            which in 0..DType::ALL.len(), rows in 1usize..200_000, blocks in 1usize..64,
        ) {
            let dtype = DType::ALL[which];
            let packing = Packing::new(dtype, rows, blocks * dtype.block_len());
            let all: Vec<Segment> = segments(&packing).collect();
            prop_assert_eq!(all.iter().map(|s| s.bytes).sum::<usize>(), packing.bytes());
            let mut row = 0;
            for segment in &all {
                prop_assert_eq!(segment.first_row, row);
                prop_assert!(segment.first_row.is_multiple_of(TILE_ROWS));
                prop_assert!(segment.rows > 0 && segment.padded() <= SEGMENT_BYTES_MAX);
                row += segment.rows;
            }
            prop_assert_eq!(row, rows);
            let least = all.iter().map(|s| s.bytes).min().unwrap();
            let most = all.iter().map(|s| s.bytes).max().unwrap();
            prop_assert!(most - least <= packing.tile_bytes());
            prop_assert_eq!(all.len(), segments(&packing).len());
        }
    }

    #[test]
    fn a_tile_larger_than_a_segment_is_one() {
        let packing = Packing::new(DType::F32, 40, 100_000);
        let bytes: Vec<usize> = segments(&packing).map(|segment| segment.bytes).collect();
        assert_eq!(bytes, [6_400_000; 3]);
    }
}
