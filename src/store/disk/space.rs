//! Room on a disk: taken before it is used.

use crate::store::StoreError;
use std::fs::{File, Metadata};
use std::io;
use std::path::Path;

/// Makes `file` (in `folder`) `bytes` long with all its blocks allocated; `what` it is for, in errors.
pub(in crate::store) fn reserve(
    file: &File,
    folder: &Path,
    bytes: u64,
    what: &'static str,
) -> Result<(), StoreError> {
    let short = |available: u64| StoreError::Space {
        path: folder.display().to_string(),
        what,
        needed: bytes,
        available,
        limit: "free on the disk",
        missing: bytes.saturating_sub(available),
        remedy: "free some, or choose another --disk-dir",
    };
    // To try and fail would fill the disk for a moment, and others would find it full.
    if let Some(available) = free_bytes(folder)
        && available.saturating_add(file.metadata().map_or(0, |own| allocated(&own))) < bytes
    {
        return Err(short(available));
    }
    match allocate(file, bytes) {
        Ok(()) => Ok(()),
        Err(e) if matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            Err(short(free_bytes(folder).unwrap_or(0)))
        }
        Err(e) if e.kind() == io::ErrorKind::Unsupported => match free_bytes(folder) {
            Some(available) if available < bytes => Err(short(available)),
            _ => file.set_len(bytes).map_err(|e| StoreError::io(folder, "size a file in it", e)),
        },
        Err(e) => Err(StoreError::io(folder, "reserve space in it", e)),
    }
}

/// Bytes of disk that a file takes.
#[cfg(unix)]
pub(in crate::store) fn allocated(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(metadata) * 512
}

/// Bytes of disk that a file takes, as far as is known.
#[cfg(not(unix))]
pub(in crate::store) fn allocated(_: &Metadata) -> u64 {
    0
}

#[cfg(target_os = "linux")]
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    if bytes == 0 {
        return file.set_len(0);
    }
    Ok(rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes)?)
}

/// Without such a call the length is set, and the free space checked.
#[cfg(not(target_os = "linux"))]
fn allocate(_: &File, _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Bytes that this user may still write in `folder`; `None` where the system does not tell.
#[cfg(unix)]
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Bytes that this user may still write in `folder`; `None` where the system does not tell.
#[cfg(not(unix))]
pub fn free_bytes(_: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_disk_has_is_refused_with_the_missing_bytes() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = tempfile::tempfile_in(folder.path()).expect("a file");
        reserve(&file, folder.path(), 1 << 20, "a test").expect("a MiB");
        assert_eq!(file.metadata().expect("metadata").len(), 1 << 20);
        let Some(free) = free_bytes(folder.path()) else { return };
        // Below the largest file of ext4, above what is free.
        let needed = free + (1 << 40);
        let error = reserve(&file, folder.path(), needed, "a test").expect_err("too much");
        let text = error.to_string();
        assert!(text.contains(&format!("a test needs {needed} bytes")), "{text}");
        assert!(text.contains("bytes are missing") && text.contains("--disk-dir"), "{text}");
    }
}
