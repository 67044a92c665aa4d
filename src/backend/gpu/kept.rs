//! What compiling pipelines takes, kept from one process to the next.

use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

/// Keeps bytes by name, wherever: a device knows no files.
pub trait KernelStore: Send + Sync {
    /// What was saved by that name, if it is all there.
    fn load(&self, name: &str) -> Option<Vec<u8>>;

    /// Saves it. A failure costs time in the next process, and nothing else.
    fn save(&self, name: &str, bytes: &[u8]);
}

/// A cache of the driver's, and where it is kept.
pub(super) struct Kept {
    cache: wgpu::PipelineCache,
    store: Arc<dyn KernelStore>,
    name: String,
    /// Hash of what was loaded.
    loaded: Option<u64>,
}

impl Kept {
    /// The cache that `store` has for this adapter, or an empty one; `None` where the driver has none to give.
    pub(super) fn open(
        adapter: &wgpu::AdapterInfo,
        device: &wgpu::Device,
        store: Arc<dyn KernelStore>,
    ) -> Option<Kept> {
        if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let name = wgpu::util::pipeline_cache_key(adapter)?;
        let loaded = store.load(&name);
        let wanted = wgpu::PipelineCacheDescriptor {
            label: Some("forebay"),
            data: loaded.as_deref(),
            // What another driver or version has left is not used.
            fallback: true,
        };
        // SAFETY: the store gives what this adapter's cache saved there, or nothing.
        let cache = unsafe { device.create_pipeline_cache(&wanted) };
        Some(Kept { cache, store, name, loaded: loaded.as_deref().map(hash) })
    }

    pub(super) fn cache(&self) -> &wgpu::PipelineCache {
        &self.cache
    }
}

impl Drop for Kept {
    /// Saves what has been added since.
    fn drop(&mut self) {
        match self.cache.get_data() {
            Some(data) if self.loaded != Some(hash(&data)) => self.store.save(&self.name, &data),
            _ => {}
        }
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}
