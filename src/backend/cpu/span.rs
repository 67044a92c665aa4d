//! Views of device memory that the kernels of a run share.

use std::ptr::NonNull;

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
    pub(super) fn new(start: *mut u8, bytes: usize) -> Span {
        Span { start, bytes }
    }

    /// A view of nothing.
    pub(super) fn none() -> Span {
        Span { start: NonNull::<u64>::dangling().as_ptr().cast(), bytes: 0 }
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
