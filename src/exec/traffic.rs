//! What went from tier to tier.

/// Bytes that have moved between tiers, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Weights read from disk.
    pub read_bytes: u64,
    /// Weights copied to a device with memory of its own.
    pub uploaded_bytes: u64,
    /// Cache pages brought to windows, from RAM and from disk.
    pub page_load_bytes: u64,
    /// Cache pages brought back.
    pub page_store_bytes: u64,
    /// What the disk read of these pages, padding included.
    pub disk_load_bytes: u64,
    /// What it wrote of them.
    pub disk_store_bytes: u64,
}

impl std::ops::Add for Traffic {
    type Output = Traffic;

    fn add(self, more: Traffic) -> Traffic {
        Traffic {
            read_bytes: self.read_bytes + more.read_bytes,
            uploaded_bytes: self.uploaded_bytes + more.uploaded_bytes,
            page_load_bytes: self.page_load_bytes + more.page_load_bytes,
            page_store_bytes: self.page_store_bytes + more.page_store_bytes,
            disk_load_bytes: self.disk_load_bytes + more.disk_load_bytes,
            disk_store_bytes: self.disk_store_bytes + more.disk_store_bytes,
        }
    }
}
