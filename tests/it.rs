//! Integration tests.

#[path = "it/tokens.rs"]
mod tokens;
