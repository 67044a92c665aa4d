//! Files as the disk is measured with: aligned memory, positioned reads, reads past the page cache.

use std::fs::File;
use std::io;
use std::path::Path;

/// Direct reads want offsets, lengths and memory in multiples of this.
pub(super) const ALIGN: usize = 4096;

/// Memory that starts at a multiple of [`ALIGN`].
pub(super) struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    pub(super) fn new(len: usize) -> Aligned {
        let memory = vec![0u8; len + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN).min(ALIGN);
        Aligned { memory, start, len }
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// Fills `out` from `offset`.
#[cfg(unix)]
pub(super) fn read_at(file: &File, offset: u64, out: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

/// Fills `out` from `offset`.
#[cfg(windows)]
pub(super) fn read_at(file: &File, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
    while !out.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, out, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                offset += n as u64;
                out = &mut out[n..];
            }
        }
    }
    Ok(())
}

/// Makes reads go past the page cache, or through it again; false where the system or the file
/// system does not do so.
#[cfg(target_os = "linux")]
pub(super) fn set_direct(file: &File, direct: bool) -> bool {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    let set = fcntl_getfl(file).and_then(|mut flags| {
        flags.set(OFlags::DIRECT, direct);
        fcntl_setfl(file, flags)
    });
    set.is_ok()
}

/// Makes reads go past the page cache, or through it again; false where the system or the file
/// system does not do so.
#[cfg(not(target_os = "linux"))]
pub(super) fn set_direct(_: &File, direct: bool) -> bool {
    !direct
}

/// Drops the system's copy of a file, so that it is read from the disk.
#[cfg(target_os = "linux")]
pub(super) fn forget(file: &File) {
    if let Err(error) = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed) {
        tracing::debug!(%error, "posix_fadvise failed");
    }
}

/// Drops the system's copy of a file, so that it is read from the disk; not here.
#[cfg(not(target_os = "linux"))]
pub(super) fn forget(_: &File) {}

/// Bytes that may be written to the disk of `folder`; `None` where the system does not tell.
#[cfg(unix)]
pub(super) fn free_bytes(folder: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

/// Bytes that may be written to the disk of `folder`; `None` where the system does not tell.
#[cfg(not(unix))]
pub(super) fn free_bytes(_: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn reads_give_the_same_bytes_whichever_way_they_go() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..3 * ALIGN).map(|i| (i / 7) as u8).collect();
        file.write_all(&bytes).unwrap();
        file.sync_all().unwrap();
        forget(&file);
        let mut out = Aligned::new(2 * ALIGN);
        assert!(out.bytes().as_ptr().addr().is_multiple_of(ALIGN));
        for direct in [true, false] {
            if set_direct(&file, direct) {
                out.bytes().fill(0);
                read_at(&file, ALIGN as u64, out.bytes()).unwrap();
                assert_eq!(out.bytes(), &bytes[ALIGN..], "direct: {direct}");
            }
        }
        assert!(read_at(&file, 2 * ALIGN as u64, out.bytes()).is_err(), "past the end");
        assert!(free_bytes(&std::env::temp_dir()).is_none_or(|bytes| bytes > 0));
    }
}
