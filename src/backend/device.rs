//! The seam between the engine and a device.

use crate::kernel::{Buffer, Call, Matrix};
use crate::quant::DType;
use std::fmt;
use std::ptr::NonNull;

/// What a device is, for users and for decisions.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceInfo {
    /// Adapter or processor name.
    pub name: String,
    /// Kind of device.
    pub kind: DeviceKind,
    /// API and driver, or SIMD path and thread count.
    pub driver: String,
    /// Largest single buffer, bytes.
    pub buffer_bytes_max: u64,
    /// Bytes of memory of its own that this process may use, if it has any and tells.
    pub memory_bytes: Option<u64>,
}

impl DeviceInfo {
    /// Whether it computes where what is read from disk can land, so that nothing needs an upload.
    pub fn computes_in_ram(&self) -> bool {
        self.kind == DeviceKind::Cpu
    }
}

/// Kinds of device, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceKind {
    /// A GPU with its own memory.
    DiscreteGpu,
    /// A GPU that shares the host's memory.
    IntegratedGpu,
    /// A GPU handed through by a hypervisor, or one of unknown kind.
    OtherGpu,
    /// A graphics API emulated on the CPU (llvmpipe).
    SoftwareGpu,
    /// The CPU, native kernels.
    Cpu,
    /// The CPU, slow scalar kernels for tests.
    Reference,
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DeviceKind::DiscreteGpu => "discrete GPU",
            DeviceKind::IntegratedGpu => "integrated GPU",
            DeviceKind::OtherGpu => "GPU",
            DeviceKind::SoftwareGpu => "software adapter",
            DeviceKind::Cpu => "CPU",
            DeviceKind::Reference => "reference",
        })
    }
}

/// Bytes a device holds, now and at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Allocated now.
    pub bytes: u64,
    /// Most ever allocated.
    pub bytes_peak: u64,
    /// Most that may be allocated, if that is bounded.
    pub limit: Option<u64>,
}

impl MemoryUse {
    /// Whether `bytes` more may be allocated.
    pub fn allows(&self, bytes: u64) -> bool {
        self.limit.is_none_or(|limit| self.bytes.saturating_add(bytes) <= limit)
    }

    /// Counts an allocation.
    pub fn grow(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.bytes_peak = self.bytes_peak.max(self.bytes);
    }

    /// Counts a release.
    pub fn shrink(&mut self, bytes: u64) {
        self.bytes -= bytes;
    }
}

/// Part of a buffer to copy: offsets and length are multiples of 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyPart {
    /// First byte in the source.
    pub from: usize,
    /// First byte in the target.
    pub to: usize,
    /// Length.
    pub bytes: usize,
}

/// A copy out of a device that may still be under way; see [`Device::fetch`].
#[derive(Debug)]
pub struct Fetch(pub(super) Vec<u8>);

/// What can go wrong on a device that the caller could not have prevented.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// No such device, or none usable.
    #[error("no usable device: {0}")]
    Unavailable(String),
    /// An allocation failed.
    #[error("{device}: out of memory allocating {bytes} bytes for {what}")]
    OutOfMemory {
        /// Which device.
        device: String,
        /// What the memory was for.
        what: String,
        /// Bytes asked for.
        bytes: u64,
    },
    /// The device stopped working.
    #[error("device lost: {0}; rerun the same command to resume")]
    Lost(String),
}

/// A device: owns buffers and matrices, runs calls in order.
///
/// **Invariance.** The bits of one row of a result depend on that row's operands alone, never on how
/// many rows share the call or where a cache page lies.
pub trait Device: Send {
    /// What this device is.
    fn info(&self) -> &DeviceInfo;

    /// Allocates a zeroed buffer; `what` names it in errors.
    fn alloc(&mut self, bytes: usize, what: &str) -> Result<Buffer, DeviceError>;

    /// Allocates a zeroed buffer in host memory from which, and to which, the device copies by itself;
    /// `None` where it cannot. It is not counted in [`Device::memory`].
    fn alloc_host(&mut self, bytes: usize, what: &str) -> Result<Option<Buffer>, DeviceError> {
        let _ = (bytes, what);
        Ok(None)
    }

    /// Copies parts of a buffer to another one, after all calls so far.
    fn copy(&mut self, from: Buffer, to: Buffer, parts: &[CopyPart]) -> Result<(), DeviceError> {
        let mut bytes = Vec::new();
        parts.iter().try_for_each(|part| {
            bytes.resize(part.bytes, 0);
            self.read(from, part.from, &mut bytes)?;
            self.write(to, part.to, &bytes)
        })
    }

    /// Copies from several buffers to parts of another one, after all calls so far, without waiting for it.
    fn gather(&mut self, copies: &[(Buffer, CopyPart)], to: Buffer) -> Result<(), DeviceError> {
        copies.iter().try_for_each(|(from, part)| self.copy(*from, to, std::slice::from_ref(part)))
    }

    /// Releases a buffer.
    fn free(&mut self, buffer: Buffer);

    /// Takes a matrix in file order: `bytes` holds `rows` rows of `dtype.row_bytes(cols)` bytes.
    fn load(
        &mut self,
        dtype: DType,
        rows: usize,
        cols: usize,
        bytes: &[u8],
        what: &str,
    ) -> Result<Matrix, DeviceError>;

    /// Names packed weights that lie (or will lie) in `buffer` from byte `offset` on as a matrix; no
    /// byte moves. The offset is a multiple of [`crate::quant::IO_ALIGN`]. The view is unloaded
    /// before the buffer is freed.
    fn view(
        &mut self,
        dtype: DType,
        rows: usize,
        cols: usize,
        buffer: Buffer,
        offset: usize,
    ) -> Matrix;

    /// Address of a buffer's bytes if the device computes in host memory: reads from disk then land
    /// where they are used. Whoever writes there keeps away from what calls are using.
    fn host_bytes(&mut self, buffer: Buffer) -> Option<NonNull<u8>> {
        let _ = buffer;
        None
    }

    /// Says what kinds of calls will be run, over buffers that need not exist: a device that compiles kernels
    /// begins with theirs.
    fn prepare(&mut self, calls: &[Call]) {
        let _ = calls;
    }

    /// Bytes of working memory that a run of `calls` needs beside their operands.
    fn working_bytes(&self, calls: &[Call]) -> u64;

    /// Takes the working memory that runs of `calls` need, so that these fail now or not at all.
    fn reserve(&mut self, calls: &[Call]) -> Result<(), DeviceError>;

    /// Refuses, from now on, allocations that would make it hold more than `bytes`.
    fn limit(&mut self, bytes: u64);

    /// Releases a matrix.
    fn unload(&mut self, matrix: Matrix);

    /// Copies `bytes` into `buffer` at `offset` bytes (a multiple of 4, as is the length), after all calls so far.
    fn write(&mut self, buffer: Buffer, offset: usize, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Copies out of `buffer` at `offset` bytes (a multiple of 4, as is the length), after all calls so far.
    fn read(&mut self, buffer: Buffer, offset: usize, out: &mut [u8]) -> Result<(), DeviceError>;

    /// Begins to copy `parts` (offset and length in bytes, multiples of 4) out of `buffer`, after all calls
    /// so far. At most one of these is under way.
    fn fetch(&mut self, buffer: Buffer, parts: &[(usize, usize)]) -> Result<Fetch, DeviceError> {
        let mut bytes = vec![0; parts.iter().map(|part| part.1).sum()];
        let mut out = &mut bytes[..];
        for &(offset, len) in parts {
            let (part, rest) = out.split_at_mut(len);
            self.read(buffer, offset, part)?;
            out = rest;
        }
        Ok(Fetch(bytes))
    }

    /// Waits for a fetch, not for what was run since: its parts, one after the other.
    fn fetched(&mut self, fetch: Fetch) -> Result<Vec<u8>, DeviceError> {
        Ok(fetch.0)
    }

    /// Runs calls in order; may return before they finish.
    fn run(&mut self, calls: &[Call]) -> Result<(), DeviceError>;

    /// Bytes held.
    fn memory(&self) -> MemoryUse;
}
