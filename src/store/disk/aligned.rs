//! Memory that direct reads can land in.

use crate::store::StoreError;
use memmap2::MmapMut;
use std::fmt;
use std::ops::{Deref, DerefMut};

/// Zeroed bytes at a page boundary, asked from the system and given back to it when dropped.
///
/// Pages become resident when they are first written.
pub struct AlignedBuffer {
    map: MmapMut,
    len: usize,
}

impl AlignedBuffer {
    /// Allocates `len` bytes; fails, where a `Vec` would end the process, if the system has none.
    pub fn new(len: usize) -> Result<AlignedBuffer, StoreError> {
        let map = MmapMut::map_anon(len.max(1))
            .map_err(|source| StoreError::Memory { bytes: len, source })?;
        Ok(AlignedBuffer { map, len })
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map[..self.len]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.map[..self.len]
    }
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuffer({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::IO_ALIGN;

    #[test]
    fn buffers_are_aligned_and_may_be_refused() {
        for len in [0, 1, 4096, 5 << 20] {
            let mut buffer = AlignedBuffer::new(len).expect("memory");
            assert_eq!((buffer.len(), buffer.as_ptr().addr() % IO_ALIGN), (len, 0));
            assert!(buffer.iter().all(|&byte| byte == 0));
            buffer.fill(1);
        }
        let error = AlignedBuffer::new(isize::MAX as usize - 8191).expect_err("too much");
        assert!(error.to_string().contains("9223372036854767616 bytes"), "{error}");
    }
}
