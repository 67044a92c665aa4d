//! The packed order of a weight matrix: what every fast device keeps and streams.
//!
//! Sixteen rows of the matrix (output features) form a tile, so that one vector lane or GPU thread
//! owns one output and no reduction crosses lanes. A tile is a permutation of the bytes of its rows in
//! the file (the same bits per weight) in up to four planes, each a run of 16-lane vectors:
//!
//! | plane  | contents, per block of 32 columns (`b`) or super-block of 256 (`s`)                         |
//! |--------|---------------------------------------------------------------------------------------------|
//! | quants | 4-bit: u32 `j` (0..4), byte `i` = columns `4j+i` (low nibble), `16+4j+i` (high nibble);      |
//! |        | 8-bit: u32 `g` (0..8), byte `i` = column `4g+i`                                              |
//! | high   | fifth bits: byte `i`, bit `g` = column `4g+i`; sixth and fifth: u32 `g/4`, bits `2(g%4)`     |
//! | scales | f16 per `b`; or f16 scale and f16 minimum in a u32 per `b`; or 12 packed bytes per `s`;      |
//! |        | or two i8 per `b`                                                                            |
//! | super  | K-quants: f16 `d` (and `dmin`) per `s`                                                       |
//!
//! Floats are one plane: u32 per column (F32) or per pair of columns (F16, BF16; even column low).

use super::interleave::interleave;
use super::{DType, dequantize_row};

/// Rows of a tile; also the f32 lanes of the widest vector unit in use.
pub const TILE_ROWS: usize = 16;

/// Byte geometry of a matrix in packed order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// Element type.
    pub dtype: DType,
    /// Output features; the last tile is padded with zeros to [`TILE_ROWS`].
    pub rows: usize,
    /// Input features.
    pub cols: usize,
}

impl Packing {
    /// Geometry of a `rows` x `cols` matrix of `dtype`; `cols` must fill whole blocks.
    pub fn new(dtype: DType, rows: usize, cols: usize) -> Packing {
        assert!(
            cols.is_multiple_of(dtype.block_len()),
            "{cols} columns do not fill {dtype} blocks"
        );
        Packing { dtype, rows, cols }
    }

    /// Number of tiles.
    pub fn tiles(&self) -> usize {
        self.rows.div_ceil(TILE_ROWS)
    }

    /// Bytes of one tile.
    pub fn tile_bytes(&self) -> usize {
        let cols = if self.dtype == DType::F32 || !self.dtype.is_float() {
            self.cols
        } else {
            self.cols.next_multiple_of(2)
        };
        self.dtype.row_bytes(cols) * TILE_ROWS
    }

    /// Bytes of the whole matrix: what a device allocates and a plan counts.
    pub fn bytes(&self) -> usize {
        self.tiles() * self.tile_bytes()
    }

    /// Blocks of 32 columns in a row (quantized types).
    pub fn blocks(&self) -> usize {
        self.cols / 32
    }

    /// Bytes of quants, high bits and scales per block of 32 columns of a tile (scales of Q4_K and
    /// Q5_K are counted per super-block: see [`Packing::scales_at`]).
    fn block_planes(&self) -> (usize, usize) {
        match self.dtype {
            DType::Q4_0 | DType::Q4_1 | DType::Q4K => (256, 0),
            DType::Q5_0 | DType::Q5_1 | DType::Q5K => (256, 64),
            DType::Q6K => (256, 128),
            DType::Q8_0 => (512, 0),
            DType::F32 | DType::F16 | DType::BF16 => (0, 0),
        }
    }

    /// Byte offset of the high-bit plane in a tile.
    pub fn high_at(&self) -> usize {
        self.blocks() * self.block_planes().0
    }

    /// Byte offset of the scale plane in a tile.
    pub fn scales_at(&self) -> usize {
        self.high_at() + self.blocks() * self.block_planes().1
    }

    /// Byte offset of the super-scale plane in a tile (K-quants).
    pub fn super_at(&self) -> usize {
        match self.dtype {
            DType::Q4K | DType::Q5K => self.scales_at() + self.cols / 256 * 192,
            DType::Q6K => self.scales_at() + self.blocks() * 32,
            _ => self.tile_bytes(),
        }
    }

    /// Packs up to [`TILE_ROWS`] consecutive rows (`source`, file order) into one tile.
    ///
    /// Missing rows (the last tile) become zeros.
    pub fn pack_tile(&self, source: &[u8], tile: &mut [u8]) {
        assert_eq!(tile.len(), self.tile_bytes());
        let row_bytes = self.dtype.row_bytes(self.cols);
        assert!(source.len() <= TILE_ROWS * row_bytes && source.len().is_multiple_of(row_bytes));
        if source.len() < TILE_ROWS * row_bytes {
            tile.fill(0);
        }
        interleave(self, source, tile);
    }
}

/// Packs a whole matrix (`source`: rows in file order) into `packed`.
pub fn pack(packing: &Packing, source: &[u8], packed: &mut [u8]) {
    let tile_source = packing.dtype.row_bytes(packing.cols) * TILE_ROWS;
    assert_eq!(packed.len(), packing.bytes());
    for (rows, tile) in source.chunks(tile_source).zip(packed.chunks_mut(packing.tile_bytes())) {
        packing.pack_tile(rows, tile);
    }
}

/// Expands row `row` of a packed matrix; the inverse of packing, for tests and diagnostics.
pub fn unpack_row(packing: &Packing, packed: &[u8], row: usize, out: &mut [f32]) {
    assert_eq!(out.len(), packing.cols);
    let tile = &packed[row / TILE_ROWS * packing.tile_bytes()..][..packing.tile_bytes()];
    let mut bytes = Vec::new();
    packing.unpack_bytes(tile, row % TILE_ROWS, &mut bytes);
    dequantize_row(packing.dtype, &bytes, out);
}

impl Packing {
    /// Restores the file's bytes of one row of a tile.
    fn unpack_bytes(&self, tile: &[u8], lane: usize, bytes: &mut Vec<u8>) {
        let word = |at: usize| {
            let at = at + lane * 4;
            [tile[at], tile[at + 1], tile[at + 2], tile[at + 3]]
        };
        let half = |at: usize| [tile[at + lane * 2], tile[at + lane * 2 + 1]];
        match self.dtype {
            DType::F32 => (0..self.cols).for_each(|k| bytes.extend(word(k * 64))),
            DType::F16 | DType::BF16 => {
                for k in 0..self.cols {
                    bytes.extend(&word(k / 2 * 64)[k % 2 * 2..][..2]);
                }
            }
            dtype => {
                let per_block = dtype.block_len() / 32;
                for index in 0..self.cols / dtype.block_len() {
                    let mut q = [0u8; 256];
                    for sub in 0..per_block {
                        let b = index * per_block + sub;
                        self.gather_quants(
                            &word,
                            b,
                            (&mut q[sub * 32..][..32]).try_into().unwrap(),
                        );
                    }
                    self.rebuild_block(&word, &half, index, &q, bytes);
                }
            }
        }
    }

    fn gather_quants(&self, word: &dyn Fn(usize) -> [u8; 4], b: usize, q: &mut [u8; 32]) {
        for (k, q) in q.iter_mut().enumerate() {
            let (g, i) = (k / 4, k % 4);
            *q = match self.dtype {
                DType::Q8_0 => word(b * 512 + g * 64)[i],
                _ => word(b * 256 + g % 4 * 64)[i] >> (g / 4 * 4) & 0xF,
            };
            *q |= match self.dtype {
                DType::Q5_0 | DType::Q5_1 | DType::Q5K => {
                    (word(self.high_at() + b * 64)[i] >> g & 1) << 4
                }
                DType::Q6K => {
                    (word(self.high_at() + b * 128 + g / 4 * 64)[i] >> (g % 4 * 2) & 3) << 4
                }
                _ => 0,
            };
        }
    }

    fn rebuild_block(
        &self,
        word: &dyn Fn(usize) -> [u8; 4],
        half: &dyn Fn(usize) -> [u8; 2],
        index: usize,
        q: &[u8; 256],
        bytes: &mut Vec<u8>,
    ) {
        let scales = self.scales_at();
        match self.dtype {
            DType::Q4_0 | DType::Q5_0 | DType::Q8_0 => bytes.extend(half(scales + index * 32)),
            DType::Q4_1 | DType::Q5_1 => bytes.extend(word(scales + index * 64)),
            DType::Q4K | DType::Q5K => {
                bytes.extend(word(self.super_at() + index * 64));
                (0..3).for_each(|w| bytes.extend(word(scales + index * 192 + w * 64)));
            }
            _ => {}
        }
        match self.dtype {
            DType::Q8_0 => bytes.extend(&q[..32]),
            DType::Q4_0 | DType::Q4_1 => bytes.extend((0..16).map(|i| q[i] | q[i + 16] << 4)),
            DType::Q5_0 | DType::Q5_1 => {
                let high = (0..32).fold(0u32, |h, k| h | u32::from(q[k] >> 4) << k);
                bytes.extend(high.to_le_bytes());
                bytes.extend((0..16).map(|i| (q[i] & 0xF) | (q[i + 16] & 0xF) << 4));
            }
            DType::Q4K | DType::Q5K => {
                if self.dtype == DType::Q5K {
                    bytes.extend(
                        (0..32).map(|i| (0..8).fold(0u8, |h, j| h | (q[j * 32 + i] >> 4) << j)),
                    );
                }
                bytes.extend((0..128).map(|i| {
                    let at = i / 32 * 64 + i % 32;
                    (q[at] & 0xF) | (q[at + 32] & 0xF) << 4
                }));
            }
            DType::Q6K => {
                let at = |half: usize, group: usize, lane: usize| q[half * 128 + group * 32 + lane];
                bytes.extend((0..128).map(|i| {
                    let (h, group, lane) = (i / 64, i % 64 / 32, i % 32);
                    (at(h, group, lane) & 0xF) | (at(h, group + 2, lane) & 0xF) << 4
                }));
                bytes.extend((0..64).map(|i| {
                    let (h, lane) = (i / 32, i % 32);
                    (0..4).fold(0u8, |top, g| top | (at(h, g, lane) >> 4) << (2 * g))
                }));
                (0..8).for_each(|sub| bytes.extend(half(scales + (index * 8 + sub) * 32)));
                bytes.extend(half(self.super_at() + index * 32));
            }
            DType::F32 | DType::F16 | DType::BF16 => unreachable!("floats have no blocks"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Packing loses nothing: each row's file bytes come back, for every type and any row count.
        #[test]
        fn packing_is_a_permutation(
            which in 0..DType::ALL.len(), rows in 1usize..40, blocks in 1usize..12, seed: u64,
        ) {
            let dtype = DType::ALL[which];
            let packing = Packing::new(dtype, rows, blocks * dtype.block_len());
            let row_bytes = dtype.row_bytes(packing.cols);
            let mut state = seed;
            let source: Vec<u8> = (0..rows * row_bytes)
                .map(|_| {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    (state >> 56) as u8
                })
                .collect();
            let mut packed = vec![0xA5; packing.bytes()];
            pack(&packing, &source, &mut packed);
            for row in 0..rows {
                let mut bytes = Vec::new();
                let tile = &packed[row / TILE_ROWS * packing.tile_bytes()..][..packing.tile_bytes()];
                packing.unpack_bytes(tile, row % TILE_ROWS, &mut bytes);
                prop_assert_eq!(&bytes[..], &source[row * row_bytes..][..row_bytes]);
            }
            let padded = rows.next_multiple_of(TILE_ROWS);
            let mut zeros = source.clone();
            zeros.resize(padded * row_bytes, 0);
            let mut packed_zeros = vec![0x5A; packing.bytes()];
            pack(&packing, &zeros, &mut packed_zeros);
            prop_assert_eq!(packed, packed_zeros, "missing rows are zeros");
            if dtype == DType::F32 || !dtype.is_float() {
                prop_assert_eq!(packing.bytes(), padded * row_bytes);
            }
        }
    }
}
