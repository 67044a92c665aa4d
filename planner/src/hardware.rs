//! What the machine can do, as measured.

/// Capacities and rates of one machine; measured, never typed in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HardwareProfile {
    /// Device memory that may be used, bytes.
    pub device_bytes: u64,
    /// RAM that may be used, bytes.
    pub ram_bytes: u64,
    /// Disk space that may be used, bytes.
    pub disk_bytes: u64,
    /// Disk to RAM, bytes per second.
    pub disk_read_bytes_per_sec: f64,
    /// RAM to disk, bytes per second.
    pub disk_write_bytes_per_sec: f64,
    /// RAM to device, bytes per second.
    pub upload_bytes_per_sec: f64,
    /// Device to RAM, bytes per second.
    pub download_bytes_per_sec: f64,
    /// Linear layers: (rows of a pass, floating-point operations per second at that many rows).
    pub linear_flops: Vec<(usize, f64)>,
    /// Attention over the KV cache, bytes of keys and values per second.
    pub attention_bytes_per_sec: f64,
    /// Fixed cost of a pass, seconds.
    pub pass_seconds: f64,
}
