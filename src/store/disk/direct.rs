//! One file, read and written past the page cache where the system allows it.

use super::{IoControl, raw};
use crate::quant::IO_ALIGN;
use crate::store::{FileIdentity, StoreError};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// How long to wait before a failed transfer is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// A file of fixed length for large aligned reads and writes by any number of threads.
///
/// Uses `O_DIRECT`, so that what is moved neither fills nor empties the page cache. Where that is
/// refused (another platform, a file system or a buffer that cannot), transfers go through the page
/// cache, and the system is asked to drop what was read. A transfer that fails is tried once more.
///
/// Panics at offsets, lengths and addresses that are not multiples of [`IO_ALIGN`].
#[derive(Debug)]
pub struct DirectFile {
    file: File,
    name: String,
    len: u64,
    direct: AtomicBool,
    control: IoControl,
}

impl DirectFile {
    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Opens a regular file for reading.
    pub fn open(path: &Path, control: IoControl) -> Result<DirectFile, StoreError> {
        let open = || {
            let file = File::open(path)?;
            let metadata = file.metadata()?;
            if !metadata.is_file() {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
            }
            Ok((file, metadata.len()))
        };
        let (file, len) = open().map_err(|e| StoreError::io(path, "open the file", e))?;
        Ok(DirectFile::adopt(file, path.display().to_string(), len, control))
    }

    /// Takes over a file, `len` bytes long, that errors call `name`.
    pub(in crate::store) fn adopt(
        file: File,
        name: String,
        len: u64,
        control: IoControl,
    ) -> DirectFile {
        let direct = match raw::set_direct(&file, !control.buffered) {
            // Reading ahead is what makes it faster.
            Ok(()) if control.buffered => false,
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, name, "no direct reads and writes");
                raw::expect_no_order(&file);
                false
            }
        };
        DirectFile { file, name, len, direct: AtomicBool::new(direct), control }
    }

    /// Bytes of the file when it was opened.
    pub fn size(&self) -> u64 {
        self.len
    }

    /// What tells it from other files that come to have its name.
    pub(in crate::store) fn identity(&self) -> Result<FileIdentity, StoreError> {
        let look = |e| StoreError::io(Path::new(&self.name), "look at the file", e);
        self.file.metadata().map(|metadata| FileIdentity::of(&metadata)).map_err(look)
    }

    /// Whether transfers go past the page cache.
    pub fn is_direct(&self) -> bool {
        self.direct.load(Ordering::Relaxed)
    }

    /// Fills `out` from `offset`. Offset, length and address are multiples of [`IO_ALIGN`].
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), StoreError> {
        let wanted = out.len();
        let got = self.read_up_to(offset, out)?;
        if got == wanted {
            return Ok(());
        }
        Err(self.error("read", offset, wanted, io::ErrorKind::UnexpectedEof.into()))
    }

    /// Fills `out` from `offset` as far as the file goes; returns how far. Aligned like `read_at`.
    pub(in crate::store) fn read_up_to(
        &self,
        offset: u64,
        out: &mut [u8],
    ) -> Result<usize, StoreError> {
        check_alignment(offset, out);
        let len = out.len();
        self.transfer("read", offset, len, |at, range| {
            let out = &mut out[range];
            let Some(faults) = &self.control.faults else {
                return raw::pread(&self.file, at, out);
            };
            let strike = faults.strike(out.len())?;
            let n = raw::pread(&self.file, at, &mut out[..strike.most])?;
            strike.corrupt(&mut out[..n]);
            Ok(n)
        })
    }

    /// Writes all of `bytes` at `offset`, within the file's length. Aligned like `read_at`.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        check_alignment(offset, bytes);
        let len = bytes.len();
        if offset.checked_add(len as u64).is_none_or(|end| end > self.len) {
            let reason = format!("the file has room for {} bytes", self.len);
            let error = io::Error::new(io::ErrorKind::InvalidInput, reason);
            return Err(self.error("write", offset, len, error));
        }
        let done = self.transfer("write", offset, len, |at, range| {
            let bytes = &bytes[range];
            let most = match &self.control.faults {
                Some(faults) => faults.strike(bytes.len())?.most,
                None => bytes.len(),
            };
            raw::pwrite(&self.file, at, &bytes[..most])
        })?;
        if done == len {
            return Ok(());
        }
        Err(self.error("write", offset, len, io::ErrorKind::WriteZero.into()))
    }

    /// Waits until everything written is on the disk.
    pub(in crate::store) fn sync(&self) -> Result<(), StoreError> {
        self.file.sync_all().map_err(|e| self.error("sync", 0, self.len as usize, e))?;
        if !self.is_direct() {
            raw::forget(&self.file, 0, 0);
        }
        Ok(())
    }

    /// Repeats `piece(file offset, range of the buffer)` until all `len` bytes or the file's end are
    /// reached; returns how many bytes were moved.
    fn transfer(
        &self,
        action: &'static str,
        offset: u64,
        len: usize,
        mut piece: impl FnMut(u64, Range<usize>) -> io::Result<usize>,
    ) -> Result<usize, StoreError> {
        let (mut done, mut tried) = (0, false);
        let mut run = || {
            while done < len {
                match piece(offset + done as u64, done..len) {
                    Ok(0) => break,
                    Ok(n) => done = self.settle(offset, done + n, done),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) if self.is_direct() && raw::refuses_direct(&e) => self.go_buffered(&e),
                    Err(error) if !tried => {
                        tried = true;
                        let at = offset + done as u64;
                        tracing::warn!(
                            "{}: {action} at offset {at}: {error}; trying again",
                            self.name
                        );
                        thread::sleep(RETRY_AFTER);
                    }
                    Err(error) => return Err(self.error(action, offset, len, error)),
                }
            }
            Ok(done)
        };
        let result = self.control.pace(len, &mut run);
        if !self.is_direct() {
            raw::forget(&self.file, offset, len as u64);
        }
        result
    }

    /// Where to go on after a transfer that ended at `now`, having begun at `before`: a short one may
    /// end at no multiple of the alignment.
    pub(super) fn settle(&self, offset: u64, now: usize, before: usize) -> usize {
        let rest = now % IO_ALIGN;
        if rest == 0 || !self.is_direct() || offset + now as u64 >= self.len {
            return now;
        }
        if now - rest <= before {
            self.go_buffered(&io::Error::other("transfers of less than a page"));
        }
        before.max(now - rest)
    }

    /// Gives direct transfers up for good.
    pub(super) fn go_buffered(&self, error: &io::Error) {
        tracing::debug!(%error, name = self.name, "going on through the page cache");
        if let Err(error) = raw::set_direct(&self.file, false) {
            tracing::debug!(%error, name = self.name, "cannot leave direct mode");
        }
        raw::expect_no_order(&self.file);
        self.direct.store(false, Ordering::Relaxed);
    }

    fn error(
        &self,
        action: &'static str,
        offset: u64,
        bytes: usize,
        source: io::Error,
    ) -> StoreError {
        StoreError::Disk { path: self.name.clone(), action, bytes, offset, source }
    }
}

fn check_alignment(offset: u64, buffer: &[u8]) {
    let all = offset as usize | buffer.len() | buffer.as_ptr().addr();
    assert!(all.is_multiple_of(IO_ALIGN), "offset, length and address are multiples of {IO_ALIGN}");
}
