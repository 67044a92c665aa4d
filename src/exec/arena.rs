//! Page-aligned host memory: weights at home in RAM, and the ring that reads land in on their way to a
//! device with memory of its own.

use super::reader::Target;
use crate::quant::SEGMENT_ALIGN;
use bytemuck::Zeroable;
use std::ptr::NonNull;

#[derive(Clone, Copy, Zeroable)]
#[repr(C, align(4096))]
struct Page([u8; SEGMENT_ALIGN]);

/// Zeroed memory in whole pages.
pub(super) struct Arena {
    pages: NonNull<[Page]>,
}

// SAFETY: an arena owns its memory, as a box does.
unsafe impl Send for Arena {}

impl Arena {
    /// Memory of `bytes` bytes, a multiple of the page.
    pub(super) fn new(bytes: usize) -> Arena {
        let pages = bytemuck::allocation::zeroed_slice_box::<Page>(bytes / SEGMENT_ALIGN);
        Arena { pages: NonNull::from(Box::leak(pages)) }
    }

    /// All of it, for reads.
    pub(super) fn target(&self) -> Target {
        Target::new(self.pages.cast(), self.pages.len() * SEGMENT_ALIGN)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: leaked from a box in `new`; readers are gone before their arena.
        drop(unsafe { Box::from_raw(self.pages.as_ptr()) });
    }
}
