//! Integration tests.

#[path = "it/kernels.rs"]
mod kernels;
