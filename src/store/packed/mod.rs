//! A model's weights in packed order on disk: built once, then streamed by plain reads.

mod build;
mod cache;
mod layout;
#[cfg(test)]
mod tests;

pub use build::CacheOptions;
pub use cache::PackedCache;
