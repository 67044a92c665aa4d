//! The tensor types that forebay computes with, and their block geometry (ggml-common.h).

use std::fmt;

/// Storage type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// IEEE 16-bit float.
    F16,
    /// bfloat16.
    BF16,
    /// 4 bits, block of 32, one f16 scale, centred on 8.
    Q4_0,
    /// 4 bits, block of 32, f16 scale and minimum.
    Q4_1,
    /// 5 bits, block of 32, one f16 scale, centred on 16.
    Q5_0,
    /// 5 bits, block of 32, f16 scale and minimum.
    Q5_1,
    /// 8 bits, block of 32, one f16 scale.
    Q8_0,
    /// 4 bits, super-block of 256 in eight sub-blocks with 6-bit scales and minima.
    Q4K,
    /// 5 bits, super-block of 256 in eight sub-blocks with 6-bit scales and minima.
    Q5K,
    /// 6 bits, super-block of 256 in sixteen sub-blocks with 8-bit scales, centred on 32.
    Q6K,
}

impl DType {
    /// Every type, in a fixed order.
    pub const ALL: [DType; 11] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q8_0,
        DType::Q4K,
        DType::Q5K,
        DType::Q6K,
    ];

    /// The type with this GGUF type id, if forebay computes with it.
    pub fn from_gguf_id(id: u32) -> Option<DType> {
        DType::ALL.into_iter().find(|t| t.gguf_id() == id)
    }

    /// The GGUF type id.
    pub fn gguf_id(self) -> u32 {
        match self {
            DType::F32 => 0,
            DType::F16 => 1,
            DType::Q4_0 => 2,
            DType::Q4_1 => 3,
            DType::Q5_0 => 6,
            DType::Q5_1 => 7,
            DType::Q8_0 => 8,
            DType::Q4K => 12,
            DType::Q5K => 13,
            DType::Q6K => 14,
            DType::BF16 => 30,
        }
    }

    /// Elements that share one block.
    pub fn block_len(self) -> usize {
        match self {
            DType::F32 | DType::F16 | DType::BF16 => 1,
            DType::Q4_0 | DType::Q4_1 | DType::Q5_0 | DType::Q5_1 | DType::Q8_0 => 32,
            DType::Q4K | DType::Q5K | DType::Q6K => 256,
        }
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::Q4_0 => 18,
            DType::Q4_1 => 20,
            DType::Q5_0 => 22,
            DType::Q5_1 => 24,
            DType::Q8_0 => 34,
            DType::Q4K => 144,
            DType::Q5K => 176,
            DType::Q6K => 210,
        }
    }

    /// Bytes of a row of `cols` elements; `cols` must be a multiple of the block length.
    pub fn row_bytes(self, cols: usize) -> usize {
        assert!(cols.is_multiple_of(self.block_len()), "{cols} columns do not fill {self} blocks");
        cols / self.block_len() * self.block_bytes()
    }

    /// Whether elements are plain floats (no blocks, no scales).
    pub fn is_float(self) -> bool {
        self.block_len() == 1
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
            DType::Q4_0 => "Q4_0",
            DType::Q4_1 => "Q4_1",
            DType::Q5_0 => "Q5_0",
            DType::Q5_1 => "Q5_1",
            DType::Q8_0 => "Q8_0",
            DType::Q4K => "Q4_K",
            DType::Q5K => "Q5_K",
            DType::Q6K => "Q6_K",
        })
    }
}
