//! Pseudo-random tensor data, faster than disks take it. Drawing and quantizing every weight would be
//! slower than writing it, so a pool of normal weights is quantized once for each type and deviation, and
//! a tensor is a sequence of runs copied from random places of its pool.

use crate::quant::{DType, quantize_row};
use crate::store::gguf::TensorPlan;
use std::collections::HashMap;

/// Bytes of a pool: it fits the second-level cache.
const POOL_BYTES: usize = 512 << 10;
/// Weights that are copied together: a super-block of the K-quants.
const RUN: usize = 256;
/// Bytes given out at once; they share the cache with the pool.
const CHUNK_BYTES: usize = 256 << 10;

/// What a tensor holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    /// Normal values.
    Random {
        /// Their mean.
        mean: f32,
        /// Their standard deviation.
        std: f32,
    },
    /// These values, as F32.
    Values(Vec<f32>),
}

/// A source of tensor data: equal seeds give equal bytes, on every machine.
pub(super) struct Weights {
    seed: u64,
    /// By type and the bits of mean and deviation.
    pools: HashMap<(DType, u32, u32), Vec<u8>>,
    chunk: Vec<u8>,
}

impl Weights {
    pub(super) fn new(seed: u64) -> Weights {
        Weights { seed, pools: HashMap::new(), chunk: Vec::with_capacity(2 * CHUNK_BYTES) }
    }

    /// Gives the data of tensor number `index` to `sink`, in order, a chunk at a time.
    pub(super) fn generate<E>(
        &mut self,
        index: usize,
        tensor: &TensorPlan,
        content: &Content,
        sink: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mean, std) = match content {
            Content::Random { mean, std } => (*mean, *std),
            Content::Values(values) => {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                return sink(&bytes);
            }
        };
        let dtype = tensor.dtype;
        let key = (dtype, mean.to_bits(), std.to_bits());
        let seed = self.seed;
        let pool = self.pools.entry(key).or_insert_with(|| pool(seed, dtype, mean, std));
        let run_bytes = dtype.row_bytes(RUN);
        let starts = (pool.len() - run_bytes) / dtype.block_bytes() + 1;
        let mut random = SplitMix::new(seed, 1 + index as u64);
        let mut left = tensor.bytes();
        while left > 0 {
            self.chunk.clear();
            while self.chunk.len() < CHUNK_BYTES && (self.chunk.len() as u64) < left {
                let at = random.below(starts) * dtype.block_bytes();
                self.chunk.extend_from_slice(&pool[at..at + run_bytes]);
            }
            // The last run is cut at the end of a block.
            self.chunk.truncate(left.min(self.chunk.len() as u64) as usize);
            sink(&self.chunk)?;
            left -= self.chunk.len() as u64;
        }
        Ok(())
    }
}

fn pool(seed: u64, dtype: DType, mean: f32, std: f32) -> Vec<u8> {
    let mut random = SplitMix::new(seed, 0);
    let mut bytes = Vec::with_capacity(POOL_BYTES);
    let mut row = [0.0; RUN];
    for _ in 0..POOL_BYTES / dtype.row_bytes(RUN) {
        row.fill_with(|| mean + std * random.normal());
        quantize_row(dtype, &row, &mut bytes);
    }
    bytes
}

/// SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
struct SplitMix(u64);

impl SplitMix {
    /// A stream of its own for each (seed, number).
    fn new(seed: u64, number: u64) -> SplitMix {
        SplitMix(SplitMix(seed).next() ^ SplitMix(!number).next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// An integer from 0 to `end - 1`.
    fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.next()) * end as u128) >> 64) as usize
    }

    /// Mean 0, deviation 1, nearly normal: the sum of four uniform 16-bit integers (Irwin-Hall), which
    /// needs no function that rounds differently on other machines.
    fn normal(&mut self) -> f32 {
        let bits = self.next();
        let sum = (0..4).map(|part| (bits >> (16 * part) & 0xFFFF) as u32).sum::<u32>();
        // The deviation of the sum is sqrt((2^32 - 1) / 3).
        (sum as f32 - 131_070.0) / 37_837.227
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::dequantize_row;

    fn data(seed: u64, index: usize, tensor: &TensorPlan, content: &Content) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut sink = |part: &[u8]| {
            bytes.extend_from_slice(part);
            Ok::<_, ()>(())
        };
        Weights::new(seed).generate(index, tensor, content, &mut sink).expect("never fails");
        bytes
    }

    /// Every type, quantized, has the mean and deviation that were asked for, also where a tensor ends
    /// within a run.
    #[test]
    fn weights_have_the_asked_scale() {
        for dtype in DType::ALL {
            let cols = if dtype.block_len() == 256 { 512 } else { 544 };
            for std in [0.02, 1.0 / (16384f32).sqrt()] {
                let tensor = TensorPlan::matrix("t", dtype, 1001, cols);
                let content = Content::Random { mean: 0.0, std };
                let bytes = data(7, 3, &tensor, &content);
                assert_eq!(bytes.len() as u64, tensor.bytes());
                let mut values = vec![0.0; 1001 * cols];
                dequantize_row(dtype, &bytes, &mut values);
                let count = values.len() as f64;
                let sum =
                    |f: &dyn Fn(f64) -> f64| values.iter().map(|&v| f(f64::from(v))).sum::<f64>();
                let mean = sum(&|v| v) / count;
                let found = (sum(&|v| (v - mean) * (v - mean)) / count).sqrt();
                let ratio = found / f64::from(std);
                assert!((0.98..1.02).contains(&ratio), "{dtype}: deviation {found}, {std} asked");
                assert!(mean.abs() < 0.01 * f64::from(std), "{dtype}: mean {mean}");
            }
        }
    }

    #[test]
    fn bytes_depend_on_seed_and_tensor_alone() {
        let tensor = TensorPlan::matrix("t", DType::Q4K, 64, 1024);
        let content = Content::Random { mean: 0.0, std: 0.03 };
        let bytes = data(1, 0, &tensor, &content);
        assert_eq!(bytes, data(1, 0, &tensor, &content));
        assert_ne!(bytes, data(2, 0, &tensor, &content));
        assert_ne!(bytes, data(1, 1, &tensor, &content));
        let rows: std::collections::HashSet<&[u8]> = bytes.chunks(576).collect();
        assert_eq!(rows.len(), 64);
    }

    #[test]
    fn vectors_lie_around_their_mean_and_given_values_stay() {
        let content = Content::Random { mean: 1.0, std: 0.1 };
        let bytes = data(0, 0, &TensorPlan::vector("norm", 100), &content);
        let mut values = [0.0; 100];
        dequantize_row(DType::F32, &bytes, &mut values);
        assert!(values.iter().all(|v| (0.6..1.4).contains(v)), "{values:?}");
        let given = Content::Values(vec![1.0, 32.0]);
        let bytes = data(0, 0, &TensorPlan::vector("f", 2), &given);
        assert_eq!(bytes, [0, 0, 128, 63, 0, 0, 0, 66]);
    }
}
