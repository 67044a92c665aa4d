//! Where bytes come from: everything the store reads goes through here.

use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Random access to the bytes of one file.
pub trait Source: Send + Sync {
    /// Number of bytes.
    fn size(&self) -> u64;

    /// Fills `out` from `offset`; an error if the bytes end before.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// The file, where there is one.
    fn path(&self) -> Option<&Path> {
        None
    }

    /// What tells that file from others that come to have its name.
    fn identity(&self) -> Option<FileIdentity> {
        None
    }

    /// Says that these bytes will not be needed soon, so that the system may drop its copy.
    fn forget(&self, offset: u64, len: u64) {
        let _ = (offset, len);
    }
}

/// Which file something is, and as of when: one that replaces it, or is written to, has another. Not its
/// inode, which some network file systems make up anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    bytes: u64,
    modified: Option<SystemTime>,
}

impl FileIdentity {
    pub(super) fn of(metadata: &Metadata) -> FileIdentity {
        FileIdentity { bytes: metadata.len(), modified: metadata.modified().ok() }
    }
}

/// A file, read with positioned reads.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    path: PathBuf,
    identity: FileIdentity,
}

impl FileSource {
    /// Opens a regular file for reading; its length and identity are taken once.
    pub fn open(path: &Path) -> io::Result<FileSource> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let identity = FileIdentity::of(&metadata);
        Ok(FileSource { file, path: path.to_path_buf(), identity })
    }
}

impl Source for FileSource {
    fn size(&self) -> u64 {
        self.identity.bytes
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn identity(&self) -> Option<FileIdentity> {
        Some(self.identity)
    }

    #[cfg(unix)]
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, out, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        while !out.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(&self.file, out, offset)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => {
                    offset += n as u64;
                    out = &mut out[n..];
                }
            }
        }
        Ok(())
    }

    #[cfg(target_os = "linux")]
    fn forget(&self, offset: u64, len: u64) {
        let advice = rustix::fs::Advice::DontNeed;
        if let Err(error) =
            rustix::fs::fadvise(&self.file, offset, std::num::NonZeroU64::new(len), advice)
        {
            tracing::debug!(%error, offset, len, "posix_fadvise failed");
        }
    }
}

/// Bytes in memory.
#[derive(Clone, Debug)]
pub struct MemorySource(pub Vec<u8>);

impl Source for MemorySource {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(self.0.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}
