//! What the system says about room on a disk.

use std::io;
use std::path::Path;

/// Bytes that can still be written in the file system of `folder`; `None` where the system does not
/// tell.
#[cfg(unix)]
pub fn free_bytes(folder: &Path) -> io::Result<Option<u64>> {
    let system = rustix::fs::statvfs(folder)?;
    Ok(system.f_bavail.checked_mul(system.f_frsize))
}

/// Bytes that can still be written in the file system of `folder`; `None`: not known here.
#[cfg(not(unix))]
pub fn free_bytes(_folder: &Path) -> io::Result<Option<u64>> {
    Ok(None)
}
