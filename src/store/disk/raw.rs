//! The few system calls of files on disk, one platform beside the other.

use std::fs::File;
use std::io;

/// Reads once at `offset`; may be short.
pub(super) fn pread(file: &File, offset: u64, out: &mut [u8]) -> io::Result<usize> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_at(file, out, offset);
    #[cfg(windows)]
    return std::os::windows::fs::FileExt::seek_read(file, out, offset);
}

/// Writes once at `offset`; may be short.
pub(in crate::store) fn pwrite(file: &File, offset: u64, bytes: &[u8]) -> io::Result<usize> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::write_at(file, bytes, offset);
    #[cfg(windows)]
    return std::os::windows::fs::FileExt::seek_write(file, bytes, offset);
}

/// Turns reads and writes past the page cache on or off for all users of this handle.
#[cfg(target_os = "linux")]
pub fn set_direct(file: &File, on: bool) -> io::Result<()> {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    let flags = fcntl_getfl(file)?;
    Ok(fcntl_setfl(file, if on { flags | OFlags::DIRECT } else { flags - OFlags::DIRECT })?)
}

/// Not on this platform.
#[cfg(not(target_os = "linux"))]
pub fn set_direct(_: &File, on: bool) -> io::Result<()> {
    if on { Err(io::ErrorKind::Unsupported.into()) } else { Ok(()) }
}

/// Whether an error says that this file or buffer cannot be used past the page cache.
pub(super) fn refuses_direct(error: &io::Error) -> bool {
    // EFAULT: memory of a device that is mapped here cannot be pinned, but it can be copied to.
    #[cfg(target_os = "linux")]
    return [rustix::io::Errno::INVAL, rustix::io::Errno::FAULT, rustix::io::Errno::OPNOTSUPP]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()));
    #[cfg(not(target_os = "linux"))]
    return error.kind() == io::ErrorKind::Unsupported;
}

/// Says that reads will not go on where they ended, so that nothing is read ahead of them.
pub(super) fn expect_no_order(file: &File) {
    #[cfg(target_os = "linux")]
    advise(file, 0, 0, rustix::fs::Advice::Random);
    #[cfg(not(target_os = "linux"))]
    let _ = file;
}

/// Asks the system to drop its copy of these bytes; `len` 0 means all from `offset`.
pub fn forget(file: &File, offset: u64, len: u64) {
    #[cfg(target_os = "linux")]
    advise(file, offset, len, rustix::fs::Advice::DontNeed);
    #[cfg(not(target_os = "linux"))]
    let _ = (file, offset, len);
}

#[cfg(target_os = "linux")]
fn advise(file: &File, offset: u64, len: u64, advice: rustix::fs::Advice) {
    let len = std::num::NonZeroU64::new(len);
    if let Err(error) = rustix::fs::fadvise(file, offset, len, advice) {
        tracing::debug!(%error, offset, ?len, ?advice, "posix_fadvise failed");
    }
}
