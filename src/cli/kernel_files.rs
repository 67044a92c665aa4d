//! What drivers take to compile kernels, kept in the user's cache folder: a checksum, and their bytes.

use super::cache;
use crate::backend::gpu::KernelStore;
use sha2::{Digest, Sha256};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Bytes of a checksum.
const SUM: usize = 32;

/// No cache is larger; what is, is not read.
const BYTES_MAX: u64 = 256 << 20;

/// See the module.
pub(super) struct KernelFiles {
    folder: PathBuf,
}

impl KernelFiles {
    /// In this user's cache, if the environment names one.
    pub(super) fn open() -> Option<KernelFiles> {
        Some(KernelFiles { folder: cache::folder()?.join("kernels") })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

impl KernelStore for KernelFiles {
    fn load(&self, name: &str) -> Option<Vec<u8>> {
        let path = self.path(name);
        let size = fs::metadata(&path).ok()?.len();
        let mut bytes = if size <= BYTES_MAX { fs::read(&path).ok()? } else { return None };
        let (sum, data) = bytes.split_at_checked(SUM)?;
        if Sha256::digest(data).as_slice() != sum {
            tracing::warn!("{} is damaged; kernels are compiled anew", path.display());
            return None;
        }
        bytes.drain(..SUM);
        Some(bytes)
    }

    fn save(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        if let Err(error) = write(&path, bytes) {
            tracing::debug!("{}: {error}", path.display());
        }
    }
}

/// Nobody sees a part of a file.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let part = folder.join(format!(".{}", std::process::id()));
    let written = fs::write(&part, [Sha256::digest(bytes).as_slice(), bytes].concat());
    written.and_then(|()| fs::rename(&part, path)).inspect_err(|_| {
        // Nothing to be done about a second failure.
        let _ = fs::remove_file(&part);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_comes_back_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let files = KernelFiles { folder: folder.path().join("kernels") };
        assert_eq!(files.load("a"), None);
        files.save("a", b"compiled");
        assert_eq!(files.load("a").unwrap(), b"compiled");
        files.save("a", b"");
        assert_eq!(files.load("a").unwrap(), b"");
        let path = files.path("a");
        for broken in [&b"short"[..], &[7; SUM + 4]] {
            fs::write(&path, broken).unwrap();
            assert_eq!(files.load("a"), None);
        }
        let left: Vec<_> = fs::read_dir(&files.folder).unwrap().collect();
        assert_eq!(left.len(), 1);
    }
}
