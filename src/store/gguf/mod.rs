//! GGUF files (ggml docs/gguf.md), versions 2 and 3: headers read with every length bounded, and a writer.
//! In: a [`super::Source`]. Out: [`GgufHeader`]. The data section is never touched here.

mod cursor;
mod header;
mod value;
mod writer;

#[cfg(test)]
mod tests;

pub use header::{GgufHeader, GgufTensor};
pub use value::{Kind, Value};
pub use writer::{GgufWriter, TensorPlan};
