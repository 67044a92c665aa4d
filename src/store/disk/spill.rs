//! Keys and values that have no room in memory.

use super::{DirectFile, IoControl, reserve};
use crate::quant::IO_ALIGN;
use crate::store::{StoreError, checksum};
use std::io;
use std::path::Path;

/// A file without a name: it is gone when the process ends, however it ends.
///
/// All its space is taken when it is made, so no write finds the disk full.
#[derive(Debug)]
pub struct SpillFile {
    pub(super) file: DirectFile,
}

impl SpillFile {
    /// Makes a file of `capacity` bytes (rounded up to [`IO_ALIGN`]) in `folder`, which is made too.
    pub fn create(
        folder: &Path,
        capacity: u64,
        control: IoControl,
    ) -> Result<SpillFile, StoreError> {
        std::fs::create_dir_all(folder)
            .map_err(|e| StoreError::io(folder, "make the folder", e))?;
        let file = tempfile::tempfile_in(folder)
            .map_err(|e| StoreError::io(folder, "make a file in it", e))?;
        let capacity = capacity.next_multiple_of(IO_ALIGN as u64);
        reserve(&file, folder, capacity, "the spilled KV cache")?;
        let name = format!("{} (KV cache)", folder.display());
        Ok(SpillFile { file: DirectFile::adopt(file, name, capacity, control) })
    }

    /// Bytes it holds, all of them allocated.
    pub fn capacity(&self) -> u64 {
        self.file.size()
    }

    /// Whether transfers go past the page cache.
    pub fn is_direct(&self) -> bool {
        self.file.is_direct()
    }

    /// Fills `out` from `offset`: zeros where nothing was written. Offset, length and address are
    /// multiples of [`IO_ALIGN`].
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), StoreError> {
        self.file.read_at(offset, out)
    }

    /// Compares `bytes`, just read at `offset`, with the checksum they were written with. Bytes that
    /// do not match are read again, once.
    pub fn verify(&self, offset: u64, bytes: &mut [u8], sum: u64) -> Result<(), StoreError> {
        if checksum(bytes) == sum {
            return Ok(());
        }
        tracing::warn!(
            "{}: bytes at offset {offset} do not match their checksum",
            self.file.name()
        );
        self.file.read_at(offset, bytes)?;
        if checksum(bytes) == sum {
            return Ok(());
        }
        let why = "the bytes read are not those written";
        Err(StoreError::Disk {
            path: self.file.name().to_string(),
            action: "read",
            bytes: bytes.len(),
            offset,
            source: io::Error::new(io::ErrorKind::InvalidData, why),
        })
    }

    /// Writes `bytes` at `offset`, aligned like `read_at`.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_at(offset, bytes)
    }
}
