//! Weight formats: what the bytes of a tensor mean, and the order devices keep them in; codes of keys and values.
//! In: raw bytes of a GGUF or safetensors tensor. Out: f32 values, or the same bytes as packed tiles.
//! Must never know: files, devices, layers.

mod dequantize;
mod dtype;
mod groups;
mod interleave;
mod pack;
mod quantize;
mod segments;

pub use dequantize::{dequantize_row, k_scale_min};
pub use dtype::DType;
pub use groups::{GROUP, Side, decode, encode, scale_bytes, vector_bytes};
pub use pack::{Packing, TILE_ROWS, pack, unpack_row};
pub use quantize::quantize_row;
pub use segments::{IO_ALIGN, SEGMENT_BYTES_MAX, Segment, segments};
