//! Packed weights, segment by segment: the seam between the disk tier and what streams from it.

use super::disk::{AlignedBuffer, DirectFile, IoControl};
use super::error::StoreError;
use super::files::{ModelFiles, Place};
use crate::model::TensorId;
use crate::quant::{IO_ALIGN, Packing, Segment, TILE_ROWS, segments};
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

/// Segments of packed weights, wherever they come from.
pub trait WeightSource: Send + Sync {
    /// Fills `out` with the packed bytes of segment `index` of matrix `id`, then zeros.
    ///
    /// `out` is [`Segment::padded`] bytes at a multiple of [`IO_ALIGN`]. After an error its contents
    /// mean nothing.
    fn read_segment(&self, id: TensorId, index: usize, out: &mut [u8]) -> Result<(), StoreError>;
}

impl<W: WeightSource + ?Sized> WeightSource for Arc<W> {
    fn read_segment(&self, id: TensorId, index: usize, out: &mut [u8]) -> Result<(), StoreError> {
        (**self).read_segment(id, index, out)
    }
}

/// Bytes of rows that are read and packed at a time: few large reads, and a core's cache holds them.
const PIECE_BYTES: usize = 1 << 20;

thread_local! {
    /// Rows in file order on their way to packed order; grows to the largest piece.
    static SCRATCH: RefCell<Option<AlignedBuffer>> = const { RefCell::new(None) };
}

/// Weights packed anew from the model's files on every read: costs a core, but no disk.
pub struct FileWeights {
    files: Arc<ModelFiles>,
    /// Beside each source of the model; `None` where its bytes are in memory.
    direct: Vec<Option<DirectFile>>,
}

impl FileWeights {
    /// Opens the files once more, past the page cache.
    ///
    /// # Errors
    /// [`StoreError::Replaced`] where the name of one has come to be another's, or it was written to.
    pub fn new(files: Arc<ModelFiles>, control: IoControl) -> Result<FileWeights, StoreError> {
        let open = |source: &dyn super::Source| {
            let Some(path) = source.path() else { return Ok(None) };
            let file = DirectFile::open(path, control.clone())?;
            // The fingerprint, the header and the offsets are those of what was opened first.
            if source.identity() != Some(file.identity()?) {
                return Err(StoreError::Replaced { path: path.display().to_string() });
            }
            Ok(Some(file))
        };
        let direct = files.sources().map(open).collect::<Result<_, _>>()?;
        Ok(FileWeights { files, direct })
    }

    /// The model.
    pub fn files(&self) -> &Arc<ModelFiles> {
        &self.files
    }

    /// Bytes of scratch that a thread which reads segments of this model keeps, at most.
    pub fn scratch_bytes(files: &ModelFiles) -> usize {
        let tile = |id| files.tensor(id).map_or(0, |info| info.row_bytes() * TILE_ROWS);
        let largest = files.spec().tensors().into_iter().map(tile).max().unwrap_or(0);
        PIECE_BYTES.max(largest) + 2 * IO_ALIGN
    }

    /// Reads `rows` of a tensor in file order.
    fn rows<'s>(
        &self,
        place: &Place,
        rows: Range<usize>,
        scratch: &'s mut Option<AlignedBuffer>,
    ) -> Result<&'s [u8], StoreError> {
        let (offset, len) = self.files.extent(place, &rows)?;
        let skip = (offset % IO_ALIGN as u64) as usize;
        let span = (skip + len).next_multiple_of(IO_ALIGN);
        if scratch.as_ref().is_none_or(|scratch| scratch.len() < span) {
            *scratch = None;
            *scratch = Some(AlignedBuffer::new(span)?);
        }
        let scratch = scratch.as_mut().expect("just made");
        match &self.direct[place.source] {
            Some(file) => {
                let got = file.read_up_to(offset - skip as u64, &mut scratch[..span])?;
                if got < skip + len {
                    return Err(self.files.read_error(std::io::ErrorKind::UnexpectedEof.into()));
                }
            }
            None => self.files.read_at(place, offset, &mut scratch[skip..skip + len])?,
        }
        Ok(&scratch[skip..skip + len])
    }

    fn pack(
        &self,
        place: &Place,
        segment: Segment,
        out: &mut [u8],
        scratch: &mut Option<AlignedBuffer>,
    ) -> Result<(), StoreError> {
        let packing = place.info.packing();
        let tile_source = place.info.row_bytes() * TILE_ROWS;
        let step = (PIECE_BYTES / tile_source.max(1)).max(1) * TILE_ROWS;
        let (packed, padding) = out.split_at_mut(segment.bytes);
        padding.fill(0);
        let mut tiles = packed.chunks_exact_mut(packing.tile_bytes());
        let end = segment.first_row + segment.rows;
        for first in (segment.first_row..end).step_by(step) {
            let rows = self.rows(place, first..end.min(first + step), scratch)?;
            for (rows, tile) in rows.chunks(tile_source).zip(&mut tiles) {
                packing.pack_tile(rows, tile);
            }
        }
        Ok(())
    }
}

impl WeightSource for FileWeights {
    fn read_segment(&self, id: TensorId, index: usize, out: &mut [u8]) -> Result<(), StoreError> {
        let place = self.files.place(id)?;
        let segment = segment(&place.info.packing(), index);
        assert_eq!(out.len(), segment.padded(), "segment {index} of {id:?}");
        SCRATCH.with_borrow_mut(|scratch| self.pack(place, segment, out, scratch))
    }
}

fn segment(packing: &Packing, index: usize) -> Segment {
    segments(packing).nth(index).expect("callers count by `segments`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::time::SystemTime;

    /// Same length, same header: only the file system tells.
    #[test]
    fn a_file_that_took_the_name_of_the_model_is_refused() {
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny/llama/model.gguf");
        let folder = tempfile::tempdir().expect("a folder");
        let [path, other] = ["m.gguf", "other"].map(|name| folder.path().join(name));
        fs::copy(fixture, &path).expect("copied");
        let open = || ModelFiles::open(&path.display().to_string()).map(Arc::new);
        let again = |files| FileWeights::new(files, IoControl::default()).map(|_| ());
        let files = open().expect("a valid model");
        again(Arc::clone(&files)).expect("the same file");
        fs::copy(&path, &other).expect("copied");
        let file = File::options().write(true).open(&other).expect("opened");
        file.set_modified(SystemTime::UNIX_EPOCH).expect("set");
        drop(file);
        fs::rename(&other, &path).expect("renamed");
        let error = again(files).expect_err("another file").to_string();
        assert!(error.contains("m.gguf: it was replaced") && error.contains("again"), "{error}");
        let files = open().expect("a valid model");
        again(Arc::clone(&files)).expect("the same file");
        fs::copy(fixture, &path).expect("written to in place");
        assert!(matches!(again(files), Err(StoreError::Replaced { .. })));
    }
}
