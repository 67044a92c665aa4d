//! Aligned memory, and views of it that kernels share between threads.

use crate::backend::DeviceError;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

/// A cache line, and the widest vector.
const ALIGN: usize = 64;

/// Zeroed bytes, aligned to [`ALIGN`].
pub(super) struct Memory {
    start: NonNull<u8>,
    bytes: usize,
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
        let layout = Layout::from_size_align(bytes, ALIGN).map_err(|_| failed())?;
        if bytes == 0 {
            return Ok(Memory { start: NonNull::<[u8; ALIGN]>::dangling().cast(), bytes });
        }
        // SAFETY: the layout has a size.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(failed)?;
        Ok(Memory { start, bytes })
    }

    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        // SAFETY: owned and initialised; no span is alive outside a run.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }

    /// A view for the kernels of one run.
    pub(super) fn span(&self) -> Span {
        Span { start: self.start.as_ptr(), bytes: self.bytes }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.bytes != 0 {
            // SAFETY: allocated in `new` with this very layout.
            unsafe {
                let layout = Layout::from_size_align_unchecked(self.bytes, ALIGN);
                dealloc(self.start.as_ptr(), layout);
            }
        }
    }
}

/// A view of device memory, valid during one run; calls may name one buffer as input and output, so
/// kernels see pointers, not slices.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    start: *mut u8,
    bytes: usize,
}

// SAFETY: a run hands each unit of work a disjoint part to write.
unsafe impl Send for Span {}
unsafe impl Sync for Span {}

impl Span {
    /// A view of nothing.
    pub(super) fn none() -> Span {
        Span { start: NonNull::<[u8; ALIGN]>::dangling().as_ptr().cast(), bytes: 0 }
    }

    /// Panics unless `count` elements of `T` fit; `what` names the operand.
    pub(super) fn holds<T>(self, count: usize, what: &str) -> Span {
        let needed = count.checked_mul(size_of::<T>());
        assert!(
            needed.is_some_and(|needed| needed <= self.bytes),
            "{what}: the call needs {count} elements of {} bytes, the buffer has {} bytes",
            size_of::<T>(),
            self.bytes
        );
        self
    }

    /// Pointer to element `at`, of which `count` follow inside the view.
    #[inline(always)]
    pub(super) fn at<T>(self, at: usize, count: usize) -> *mut T {
        assert!(at + count <= self.bytes / size_of::<T>(), "outside of a buffer");
        self.start.cast::<T>().wrapping_add(at)
    }

    /// Elements `at..at + count`.
    ///
    /// # Safety
    /// Nobody writes them while the slice lives.
    #[inline(always)]
    pub(super) unsafe fn slice<'a, T: bytemuck::Pod>(self, at: usize, count: usize) -> &'a [T] {
        // SAFETY: in bounds by `at`, aligned because buffers and planes are, any bits are a `T`.
        unsafe { std::slice::from_raw_parts(self.at(at, count), count) }
    }

    /// Elements `at..at + count`, to be written.
    ///
    /// # Safety
    /// Nobody else touches them while the slice lives.
    #[inline(always)]
    pub(super) unsafe fn slice_mut<'a, T: bytemuck::Pod>(
        self,
        at: usize,
        count: usize,
    ) -> &'a mut [T] {
        // SAFETY: as for `slice`.
        unsafe { std::slice::from_raw_parts_mut(self.at(at, count), count) }
    }

    /// The part from byte `from` on.
    pub(super) fn skip(self, from: usize) -> Span {
        assert!(from <= self.bytes);
        Span { start: self.start.wrapping_add(from), bytes: self.bytes - from }
    }
}
