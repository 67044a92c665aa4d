//! An opened file of packed weights.

use super::build::{self, CacheOptions};
use super::layout::Layout;
use crate::model::TensorId;
use crate::store::checksum;
use crate::store::disk::{AlignedBuffer, DirectFile, IoControl, allocated};
use crate::store::{FileWeights, ModelFiles, StoreError, WeightSource};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A model's matrices in packed order in one file, named after the model's fingerprint.
///
/// Every segment has a checksum that is checked on each read. One that does not match is read again,
/// then packed from the model's files, with a warning.
pub struct PackedCache {
    file: DirectFile,
    path: PathBuf,
    layout: Layout,
    checksums: Vec<u64>,
    origin: FileWeights,
    repaired: AtomicU64,
}

impl PackedCache {
    /// Bytes of the file for this model, header and padding included.
    pub fn needed_bytes(files: &ModelFiles) -> u64 {
        Layout::of(files).file_bytes
    }

    /// Where the file for this model lies in `folder`.
    pub fn path_in(folder: &Path, files: &ModelFiles) -> PathBuf {
        folder.join(format!("{}.packed", files.fingerprint()))
    }

    /// Bytes of disk that this model's file takes in `folder`, whole or half built: they are not free, and
    /// the next build takes them over.
    pub fn held_bytes(folder: &Path, files: &ModelFiles) -> u64 {
        let path = PackedCache::path_in(folder, files);
        let held = |path: &Path| fs::metadata(path).map_or(0, |metadata| allocated(&metadata));
        held(&path) + held(&build::draft_of(&path))
    }

    /// Bytes of memory that building with `threads` threads takes, at most.
    pub fn build_memory_bytes(files: &ModelFiles, threads: usize) -> usize {
        let layout = Layout::of(files);
        let thread = layout.padded_max() + FileWeights::scratch_bytes(files);
        threads.max(1) * thread + layout.header_bytes
    }

    /// Opens the model's file in `folder`.
    ///
    /// [`StoreError::Malformed`] if it is of another model or version, or is not whole.
    pub fn open(
        files: Arc<ModelFiles>,
        folder: &Path,
        control: IoControl,
    ) -> Result<PackedCache, StoreError> {
        let (path, layout) = (PackedCache::path_in(folder, &files), Layout::of(&files));
        let file = DirectFile::open(&path, control.clone())?;
        let refuse = |at: &str, expected, found| StoreError::Malformed {
            path: path.display().to_string(),
            at: at.to_string(),
            expected,
            found,
            remedy: "delete it, it is built again",
        };
        if file.size() != layout.file_bytes {
            let (expected, found) = (layout.file_bytes.to_string(), file.size().to_string());
            return Err(refuse("length", expected, found));
        }
        let mut header = AlignedBuffer::new(layout.header_bytes)?;
        file.read_at(0, &mut header)?;
        let checksums = layout
            .checksums(&files.fingerprint(), &header)
            .map_err(|(at, expected, found)| refuse(at, expected, found))?;
        // Faults are those of the cache's file.
        let origin = FileWeights::new(files, IoControl { faults: None, ..control })?;
        Ok(PackedCache { file, path, layout, checksums, origin, repaired: AtomicU64::new(0) })
    }

    /// Opens the model's file in `folder`; builds it first where there is none, or none of use.
    ///
    /// `progress(bytes written, bytes in all)` is called while it is built. The file appears under its
    /// name when it is whole and on the disk. Of two processes that want it, one builds, the other
    /// waits. What a killed process left is taken over by the next. A good file is opened whatever
    /// [`CacheOptions::bytes_max`] says.
    pub fn open_or_build(
        files: Arc<ModelFiles>,
        folder: &Path,
        options: &CacheOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<PackedCache, StoreError> {
        let open = || PackedCache::open(Arc::clone(&files), folder, options.reading.clone());
        match open() {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error @ StoreError::Malformed { .. }) => tracing::warn!("{error}; building it now"),
            opened => return opened,
        }
        let (path, layout) = (PackedCache::path_in(folder, &files), Layout::of(&files));
        let draft = build::Draft::begin(&path, layout.file_bytes, options.bytes_max)?;
        // Another process may have built it meanwhile.
        if let Ok(cache) = open() {
            return Ok(cache);
        }
        draft.write(&files, &layout, options, progress)?;
        open()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.layout.file_bytes
    }

    /// Whether reads go past the page cache.
    pub fn is_direct(&self) -> bool {
        self.file.is_direct()
    }

    /// Segments so far that had to be packed from the model's files.
    pub fn repaired(&self) -> u64 {
        self.repaired.load(Ordering::Relaxed)
    }
}

impl WeightSource for PackedCache {
    fn read_segment(&self, id: TensorId, index: usize, out: &mut [u8]) -> Result<(), StoreError> {
        let Some(slot) = self.layout.find(id, index) else {
            // Not among what passes stream: the embedding, say.
            return self.origin.read_segment(id, index, out);
        };
        let (offset, padded) =
            (self.layout.slots[slot].offset, self.layout.slots[slot].segment.padded());
        assert_eq!(out.len(), padded, "segment {index} of {id:?}");
        for _ in 0..2 {
            self.file.read_at(offset, out)?;
            if checksum(out) == self.checksums[slot] {
                return Ok(());
            }
            let (path, name) = (self.path.display(), id.gguf_name());
            tracing::warn!(
                "{path}: segment {index} of {name}, {padded} bytes at offset {offset}, does not match \
                 its checksum; delete the file if this is said again, and check the disk"
            );
        }
        self.repaired.fetch_add(1, Ordering::Relaxed);
        self.origin.read_segment(id, index, out)
    }
}
