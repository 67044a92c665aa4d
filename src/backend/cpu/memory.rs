//! Zeroed, aligned memory; large pieces in huge pages where the system has them.

use super::span::Span;
use crate::backend::DeviceError;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

/// A cache line, and the widest vector.
const ALIGN: usize = 64;

/// What direct reads into memory ask for.
const PAGE: usize = 4096;

/// Stands for the address of nothing.
#[repr(align(64))]
struct Line;

/// Bytes of a huge page. Streaming weights through 4 KiB pages reaches half the bandwidth.
#[cfg(target_os = "linux")]
const HUGE: usize = 2 << 20;

/// Alignment of `bytes` bytes: whole pages are aligned as such.
fn align(bytes: usize) -> usize {
    if bytes >= PAGE { PAGE } else { ALIGN }
}

/// Zeroed bytes, aligned to [`ALIGN`], or to [`PAGE`] if they fill one.
pub(super) struct Memory {
    start: NonNull<u8>,
    bytes: usize,
    /// What to unmap, if it did not come from the allocator.
    #[cfg(target_os = "linux")]
    mapped: Option<(NonNull<u8>, usize)>,
}

// SAFETY: `Memory` owns its bytes and has no interior mutability of its own.
unsafe impl Send for Memory {}
unsafe impl Sync for Memory {}

impl Memory {
    /// Allocates `bytes` zeroed bytes; `what` names them in the error.
    pub(super) fn new(bytes: usize, what: &str) -> Result<Memory, DeviceError> {
        let failed = || DeviceError::OutOfMemory {
            device: "cpu".into(),
            what: what.into(),
            bytes: bytes as u64,
        };
        #[cfg(target_os = "linux")]
        if bytes >= HUGE {
            return Memory::map(bytes).ok_or_else(failed);
        }
        let layout = Layout::from_size_align(bytes, align(bytes)).map_err(|_| failed())?;
        let start = match bytes {
            0 => NonNull::<Line>::dangling().cast(),
            // SAFETY: the layout has a size.
            _ => NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(failed)?,
        };
        Ok(Memory {
            start,
            bytes,
            #[cfg(target_os = "linux")]
            mapped: None,
        })
    }

    /// Maps fresh zero pages, whole huge pages of it as such.
    #[cfg(target_os = "linux")]
    fn map(bytes: usize) -> Option<Memory> {
        use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
        let length = bytes.checked_add(HUGE)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping; the advice is for a part of it.
        unsafe {
            let base = mmap_anonymous(std::ptr::null_mut(), length, access, MapFlags::PRIVATE);
            let base = NonNull::new(base.ok()?.cast::<u8>())?;
            let start = base.add(base.as_ptr().align_offset(HUGE));
            // Only speed depends on the advice.
            let _ = madvise(start.as_ptr().cast(), bytes / HUGE * HUGE, Advice::LinuxHugepage);
            Some(Memory { start, bytes, mapped: Some((base, length)) })
        }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// Bytes `at..at + count`, and no others: what is read from disk may be arriving beside them, see
    /// [`crate::backend::Device::host_bytes`].
    pub(super) fn part(&self, at: usize, count: usize) -> &[u8] {
        // SAFETY: owned and initialised; no run is under way, and whoever has the address keeps away
        // from what is copied.
        unsafe { self.span().slice(at, count) }
    }

    /// As [`Memory::part`], to be written.
    pub(super) fn part_mut(&mut self, at: usize, count: usize) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` keeps other parts from being lent.
        unsafe { self.span().slice_mut(at, count) }
    }

    /// A view for the kernels of one run.
    pub(super) fn span(&self) -> Span {
        Span::new(self.start.as_ptr(), self.bytes)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        #[cfg(target_os = "linux")]
        if let Some((base, length)) = self.mapped {
            // SAFETY: mapped in `map` with this length; nothing borrows from it any more.
            let unmapped = unsafe { rustix::mm::munmap(base.as_ptr().cast(), length) };
            debug_assert!(unmapped.is_ok());
            return;
        }
        if self.bytes != 0 {
            // SAFETY: allocated in `new` with this very layout.
            unsafe {
                let layout = Layout::from_size_align_unchecked(self.bytes, align(self.bytes));
                dealloc(self.start.as_ptr(), layout);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zeroed_aligned_and_whole() {
        for bytes in [0, 1, 100, 2 << 20, (5 << 20) + 3] {
            let mut memory = Memory::new(bytes, "test").unwrap();
            assert_eq!(memory.len(), bytes);
            assert!(memory.part(0, bytes).iter().all(|&b| b == 0));
            assert!(memory.part(0, bytes).as_ptr().addr().is_multiple_of(ALIGN));
            memory.part_mut(0, bytes).fill(7);
        }
    }

    #[test]
    fn parts_are_those_bytes_alone() {
        let mut memory = Memory::new(10, "test").unwrap();
        memory.part_mut(3, 4).fill(7);
        assert_eq!(memory.part(2, 6), [0, 7, 7, 7, 7, 0]);
        assert!(memory.part(10, 0).is_empty());
        let outside = std::panic::AssertUnwindSafe(|| memory.part(7, 4).len());
        assert!(std::panic::catch_unwind(outside).is_err());
    }
}
