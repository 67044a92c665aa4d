//! The one integration test binary. Each module says what it holds.

/// House rules: who may import whom, one home per dependency, sizes, twins of kernels.
#[path = "it/tidy.rs"]
mod tidy;
