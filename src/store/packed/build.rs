//! Building a file of packed weights: under another name, by one process, with bounded memory.

use super::layout::Layout;
use crate::store::checksum;
use crate::store::disk::{AlignedBuffer, DirectFile, IoControl, reserve};
use crate::store::{FileWeights, ModelFiles, StoreError, WeightSource};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

/// How a cache of packed weights is built and read.
#[derive(Clone, Debug)]
pub struct CacheOptions {
    /// Bytes of disk that the file may take.
    pub bytes_max: u64,
    /// Threads that build it, each with a segment in memory ([`super::PackedCache::build_memory_bytes`]).
    pub threads: usize,
    /// For reads from the finished file.
    pub reading: IoControl,
    /// For reads of the model and writes while it is built; faults are those of the new file.
    pub building: IoControl,
}

/// A file that is being built. It is locked as long as this lives; where it is dropped unfinished, it is
/// removed.
pub(super) struct Draft {
    file: File,
    draft: PathBuf,
    path: PathBuf,
}

impl Draft {
    /// Claims the file that will become `path` with `bytes` bytes, of which `bytes_max` are allowed;
    /// waits while another process has it.
    pub(super) fn begin(path: &Path, bytes: u64, bytes_max: u64) -> Result<Draft, StoreError> {
        let folder = folder_of(path);
        if bytes > bytes_max {
            return Err(StoreError::Space {
                path: folder.display().to_string(),
                what: "the cache of packed weights",
                needed: bytes,
                available: bytes_max,
                limit: "allowed",
                missing: bytes - bytes_max,
                remedy: "raise --disk",
            });
        }
        fs::create_dir_all(folder).map_err(|e| StoreError::io(folder, "make the folder", e))?;
        let draft = draft_of(path);
        loop {
            let open =
                OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&draft);
            let file = open.map_err(|e| StoreError::io(&draft, "make the file", e))?;
            lock(&file, &draft).map_err(|e| StoreError::io(&draft, "lock the file", e))?;
            // Whoever had the lock may have given the file its name, or removed it.
            if is_at(&file, &draft) {
                return Ok(Draft { file, draft, path: path.to_path_buf() });
            }
        }
    }

    /// Packs the model into the file, and gives it its name; what had that name is removed first.
    pub(super) fn write(
        mut self,
        files: &Arc<ModelFiles>,
        layout: &Layout,
        options: &CacheOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), StoreError> {
        let folder = folder_of(&self.path);
        let emptied = self.file.set_len(0).and_then(|()| self.file.try_clone());
        let file = emptied.map_err(|e| StoreError::io(&self.draft, "empty the file", e))?;
        remove(&self.path).map_err(|e| StoreError::io(&self.path, "remove the file", e))?;
        reserve(&file, folder, layout.file_bytes, "the cache of packed weights")?;
        let name = self.draft.display().to_string();
        let file = DirectFile::adopt(file, name, layout.file_bytes, options.building.clone());
        let reading = IoControl { faults: None, ..options.building.clone() };
        let source = FileWeights::new(Arc::clone(files), reading)?;
        let checksums = write_segments(&file, &source, layout, options.threads, progress)?;
        file.write_at(0, &layout.header(&files.fingerprint(), &checksums)?)?;
        file.sync()?;
        fs::rename(&self.draft, &self.path)
            .map_err(|e| StoreError::io(&self.draft, "rename the file", e))?;
        self.draft = PathBuf::new();
        sync_folder(folder).map_err(|e| StoreError::io(folder, "sync the folder", e))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.draft.as_os_str().is_empty() {
            return;
        }
        if let Err(error) = remove(&self.draft) {
            tracing::debug!(%error, draft = %self.draft.display(), "cannot remove");
        }
    }
}

/// Packs and writes all segments by `threads` threads; returns their checksums.
fn write_segments(
    file: &DirectFile,
    source: &FileWeights,
    layout: &Layout,
    threads: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<u64>, StoreError> {
    let next = AtomicUsize::new(0);
    let (send, finished) = mpsc::channel();
    let work = &|send: mpsc::Sender<Result<(u64, u64, u64), StoreError>>| {
        let mut buffer = match AlignedBuffer::new(layout.padded_max()) {
            Ok(buffer) => buffer,
            Err(error) => return drop(send.send(Err(error))),
        };
        while let Some(slot) = layout.slots.get(next.fetch_add(1, Ordering::Relaxed)) {
            let out = &mut buffer[..slot.segment.padded()];
            let packed = source.read_segment(slot.id, slot.index, out);
            let written = packed.and_then(|()| file.write_at(slot.offset, out));
            let done = written.map(|()| (slot.offset, out.len() as u64, checksum(out)));
            // Nobody listens once something failed.
            if send.send(done).is_err() {
                return;
            }
        }
    };
    let mut written = layout.header_bytes as u64;
    let mut checksums = Vec::with_capacity(layout.slots.len());
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            let send = send.clone();
            scope.spawn(move || work(send));
        }
        drop(send);
        for done in finished {
            let (offset, bytes, checksum) = done?;
            written += bytes;
            progress(written, layout.file_bytes);
            checksums.push((offset, checksum));
        }
        Ok::<(), StoreError>(())
    })?;
    checksums.sort_unstable();
    Ok(checksums.into_iter().map(|(_, checksum)| checksum).collect())
}

/// What the file is called while it is built.
pub(super) fn draft_of(path: &Path) -> PathBuf {
    path.with_added_extension("draft")
}

fn folder_of(path: &Path) -> &Path {
    path.parent().expect("a file in a folder")
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn lock(file: &File, path: &Path) -> io::Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            tracing::warn!("{}: another process is building it; waiting", path.display());
            file.lock()
        }
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
            tracing::warn!("{} can't be locked ({error}); start no second run", path.display());
            Ok(())
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether `path` still names `file`.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |m: fs::Metadata| (m.dev(), m.ino());
    let found = fs::metadata(path).map(identity).ok();
    found.is_some() && found == file.metadata().map(identity).ok()
}

/// Other systems do not let go of the name of an open file.
#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

/// Makes a rename last.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}
