//! What keeps a machine from being measured.

use crate::backend::DeviceError;
use std::io;
use std::path::{Path, PathBuf};

/// What keeps a machine from being measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// The device failed.
    #[error("the device failed while it was measured")]
    Device(#[from] DeviceError),
    /// A file on the disk can't be read or written.
    #[error("cannot measure the disk of {}: {source}", path.display())]
    Disk {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No room for a file to read.
    #[error(
        "cannot measure the disk of {}: a scratch file takes at least {need_bytes} bytes, and \
         {free_bytes} are free; name a folder on another disk (--disk-dir)",
        path.display()
    )]
    NoRoom {
        /// The folder.
        path: PathBuf,
        /// Bytes of the smallest scratch file, with a reserve.
        need_bytes: u64,
        /// Bytes that are free.
        free_bytes: u64,
    },
}

impl ProfileError {
    pub(super) fn disk(path: &Path, source: io::Error) -> ProfileError {
        ProfileError::Disk { path: path.to_path_buf(), source }
    }
}
