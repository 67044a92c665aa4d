//! Rows of a file to lanes of a tile: the byte work behind [`Packing::pack_tile`].
//!
//! Columns are taken 256 at a time, so that the part of the tile being written stays in the nearest
//! cache while the sixteen rows are read; nibbles and bits move four columns to a word.

use super::{DType, Packing, TILE_ROWS};

/// One word of each lane.
type Vector = [[u8; 4]; TILE_ROWS];

/// Columns of every row that are packed before the next ones.
const GROUP_COLS: usize = 256;

/// Words of every row of floats that are packed before the next ones: a cache line.
const GROUP_WORDS: usize = 16;

/// Writes whole rows (`source`, file order, at most [`TILE_ROWS`]) to the lanes of `tile`.
pub(super) fn interleave(packing: &Packing, source: &[u8], tile: &mut [u8]) {
    match packing.dtype {
        DType::F32 | DType::F16 | DType::BF16 => floats(packing, source, tile),
        DType::Q4_0 => blocks(packing, source, tile, q4::<18, 2>),
        DType::Q4_1 => blocks(packing, source, tile, q4::<20, 4>),
        DType::Q5_0 => blocks(packing, source, tile, q5::<22, 2>),
        DType::Q5_1 => blocks(packing, source, tile, q5::<24, 4>),
        DType::Q8_0 => blocks(packing, source, tile, q8),
        DType::Q4K => blocks(packing, source, tile, q4_k),
        DType::Q5K => blocks(packing, source, tile, q5_k),
        DType::Q6K => blocks(packing, source, tile, q6_k),
    }
}

fn floats(packing: &Packing, source: &[u8], tile: &mut [u8]) {
    let row_bytes = packing.dtype.row_bytes(packing.cols);
    let tile = vectors(tile);
    for first in (0..tile.len()).step_by(GROUP_WORDS) {
        let last = tile.len().min(first + GROUP_WORDS);
        for (lane, row) in source.chunks_exact(row_bytes).enumerate() {
            let end = row_bytes.min(last * 4);
            let (words, odd) = row[first * 4..end].as_chunks::<4>();
            scatter(words, lane, &mut tile[first..last]);
            if let [low, high] = odd {
                scatter(&[[*low, *high, 0, 0]], lane, &mut tile[last - 1..]);
            }
        }
    }
}

/// What one block of one row writes to: the block's part of each plane.
struct Planes<'a> {
    lane: usize,
    quants: &'a mut [Vector],
    high: &'a mut [Vector],
    scales: &'a mut [u8],
    supers: &'a mut [u8],
}

/// Calls `put` for each block (of `N` bytes) of each row.
fn blocks<const N: usize>(
    packing: &Packing,
    source: &[u8],
    tile: &mut [u8],
    put: impl Fn(&[u8; N], Planes),
) {
    let dtype = packing.dtype;
    assert_eq!(N, dtype.block_bytes());
    let (count, group) = (packing.cols / dtype.block_len(), GROUP_COLS / dtype.block_len());
    let (high_at, scales_at, super_at) =
        (packing.high_at(), packing.scales_at(), packing.super_at());
    let (tile, supers) = tile.split_at_mut(super_at);
    let (tile, scales) = tile.split_at_mut(scales_at);
    let (quants, high) = tile.split_at_mut(high_at);
    let (quants, high) = (vectors(quants), vectors(high));
    let (q, h) = (quants.len() / count, high.len() / count);
    let (s, d) = (scales.len() / count, supers.len() / count);
    for first in (0..count).step_by(group) {
        for (lane, row) in source.chunks_exact(count * N).enumerate() {
            let row = row.as_chunks::<N>().0;
            for (index, block) in row.iter().enumerate().skip(first).take(group) {
                let planes = Planes {
                    lane,
                    quants: &mut quants[index * q..][..q],
                    high: &mut high[index * h..][..h],
                    scales: &mut scales[index * s..][..s],
                    supers: &mut supers[index * d..][..d],
                };
                put(block, planes);
            }
        }
    }
}

/// Q4_0 and Q4_1: `S` bytes of scales, 16 of nibbles.
fn q4<const N: usize, const S: usize>(block: &[u8; N], to: Planes) {
    to.scales[to.lane * S..][..S].copy_from_slice(&block[..S]);
    scatter(words::<4>(&block[S..]), to.lane, to.quants);
}

/// Q5_0 and Q5_1: `S` bytes of scales, 32 fifth bits, 16 bytes of nibbles.
fn q5<const N: usize, const S: usize>(block: &[u8; N], to: Planes) {
    to.scales[to.lane * S..][..S].copy_from_slice(&block[..S]);
    let bits = u32::from_le_bytes(words::<1>(&block[S..])[0]);
    // The product puts bit `i` of a nibble into byte `i`.
    let fifth = (0..8).fold(0, |fifth, g| {
        fifth | ((bits >> (4 * g) & 0xF).wrapping_mul(0x0020_4081) & 0x0101_0101) << g
    });
    scatter(&[fifth.to_le_bytes()], to.lane, to.high);
    scatter(words::<4>(&block[S + 4..]), to.lane, to.quants);
}

fn q8(block: &[u8; 34], to: Planes) {
    to.scales[to.lane * 2..][..2].copy_from_slice(&block[..2]);
    scatter(words::<8>(&block[2..]), to.lane, to.quants);
}

fn q4_k(block: &[u8; 144], to: Planes) {
    to.supers[to.lane * 4..][..4].copy_from_slice(&block[..4]);
    scatter(words::<3>(&block[4..]), to.lane, vectors(to.scales));
    for pair in 0..4 {
        let (low, high) = halves(words(&block[16 + pair * 32..]));
        scatter(&low, to.lane, &mut to.quants[pair * 8..][..4]);
        scatter(&high, to.lane, &mut to.quants[pair * 8 + 4..][..4]);
    }
}

fn q5_k(block: &[u8; 176], to: Planes) {
    to.supers[to.lane * 4..][..4].copy_from_slice(&block[..4]);
    scatter(words::<3>(&block[4..]), to.lane, vectors(to.scales));
    let bits = words::<8>(&block[16..]).map(u32::from_le_bytes);
    let fifth: [[u8; 4]; 8] = std::array::from_fn(|b| {
        let gather = |fifth, g: usize| fifth | (bits[g] >> b & 0x0101_0101) << g;
        (0..8).fold(0, gather).to_le_bytes()
    });
    scatter(&fifth, to.lane, to.high);
    for pair in 0..4 {
        let (low, high) = halves(words(&block[48 + pair * 32..]));
        scatter(&low, to.lane, &mut to.quants[pair * 8..][..4]);
        scatter(&high, to.lane, &mut to.quants[pair * 8 + 4..][..4]);
    }
}

fn q6_k(block: &[u8; 210], to: Planes) {
    let lane = to.lane;
    to.supers[lane * 2..][..2].copy_from_slice(&block[208..]);
    for (pair, scales) in block[192..208].as_chunks::<2>().0.iter().zip(to.scales.chunks_mut(32)) {
        scales[lane * 2..][..2].copy_from_slice(pair);
    }
    for half in 0..2 {
        let quants = &mut to.quants[half * 16..][..16];
        for group in 0..2 {
            let (low, high) = halves(words(&block[half * 64 + group * 32..]));
            scatter(&low, lane, &mut quants[group * 4..][..4]);
            scatter(&high, lane, &mut quants[group * 4 + 8..][..4]);
        }
        let bits = words::<8>(&block[128 + half * 32..]).map(u32::from_le_bytes);
        let top: [[u8; 4]; 8] = std::array::from_fn(|word| {
            let (group, part) = (word / 2, word % 2 * 4);
            let gather = |top, g| top | (bits[part + g] >> (2 * group) & 0x0303_0303) << (2 * g);
            (0..4).fold(0, gather).to_le_bytes()
        });
        scatter(&top, lane, &mut to.high[half * 8..][..8]);
    }
}

/// 32 bytes of two nibbles each, for two blocks of 32 columns: the low nibbles are one block in column
/// order, the high ones the other. Gives the words of both, columns 16 apart sharing a byte.
fn halves(bytes: &[[u8; 4]; 8]) -> ([[u8; 4]; 4], [[u8; 4]; 4]) {
    const LOW: u32 = 0x0F0F_0F0F;
    let word = |at: usize| u32::from_le_bytes(bytes[at]);
    let low = |j: usize| (word(j) & LOW) | (word(j + 4) & LOW) << 4;
    let high = |j: usize| (word(j) >> 4 & LOW) | (word(j + 4) & !LOW);
    (std::array::from_fn(|j| low(j).to_le_bytes()), std::array::from_fn(|j| high(j).to_le_bytes()))
}

/// The first `W` words of `bytes`.
fn words<const W: usize>(bytes: &[u8]) -> &[[u8; 4]; W] {
    bytes.as_chunks::<4>().0.first_chunk().expect("a block holds its words")
}

fn vectors(plane: &mut [u8]) -> &mut [Vector] {
    plane.as_chunks_mut::<4>().0.as_chunks_mut::<TILE_ROWS>().0
}

/// Writes word `w` of one row to lane `lane` of vector `w`.
fn scatter(words: &[[u8; 4]], lane: usize, plane: &mut [Vector]) {
    for (word, vector) in words.iter().zip(plane) {
        vector[lane % TILE_ROWS] = *word;
    }
}
