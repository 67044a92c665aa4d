//! An opened model: its description, and the bytes of its tensors.

use super::error::StoreError;
use super::source::Source;
use crate::model::{ModelSpec, TensorId};
use crate::quant::{DType, Packing, dequantize_row};
use crate::tokenizer::TokenizerSource;
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What a tensor is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: DType,
    /// Rows (output features); 1 for vectors.
    pub rows: usize,
    /// Columns (input features), or the length of a vector.
    pub cols: usize,
}

impl TensorInfo {
    /// Bytes of one row in file order.
    pub fn row_bytes(&self) -> usize {
        self.dtype.row_bytes(self.cols)
    }

    /// Its geometry in packed order.
    pub fn packing(&self) -> Packing {
        Packing::new(self.dtype, self.rows, self.cols)
    }

    /// Bytes of the tensor in file order.
    pub fn bytes(&self) -> u64 {
        self.rows as u64 * self.row_bytes() as u64
    }
}

/// A tensor of a file, for listings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorListing {
    /// The file's own name for it.
    pub name: String,
    /// Element type, also of those forebay does not compute with.
    pub dtype: String,
    /// Sizes, outermost first.
    pub shape: Vec<u64>,
    /// Length of the data; 0 where the type is unknown.
    pub bytes: u64,
    /// Whether the network uses it.
    pub used: bool,
}

/// Where a tensor's bytes are.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) info: TensorInfo,
    /// Index into the model's sources.
    pub(super) source: usize,
    /// First byte in that source.
    pub(super) offset: u64,
    /// The file's own name.
    pub(super) name: String,
}

/// Everything an opener of a format hands over.
pub(super) struct Opened {
    pub(super) path: PathBuf,
    pub(super) spec: ModelSpec,
    pub(super) sources: Vec<Box<dyn Source>>,
    pub(super) places: HashMap<TensorId, Place>,
    pub(super) listing: Vec<TensorListing>,
    pub(super) metadata: Vec<(String, String)>,
    pub(super) fingerprint: String,
}

/// Finds every tensor of `spec` by `find` and checks its shape.
pub(super) fn places(
    path: &str,
    spec: &ModelSpec,
    name: impl Fn(TensorId) -> String,
    mut find: impl FnMut(&str) -> Result<Option<Place>, StoreError>,
) -> Result<HashMap<TensorId, Place>, StoreError> {
    let mut places = HashMap::new();
    for id in spec.tensors() {
        let tensor = name(id);
        let Some(place) = find(&tensor)? else {
            let architecture = spec.architecture.clone();
            return Err(StoreError::MissingTensor { path: path.to_string(), tensor, architecture });
        };
        let (rows, cols) = spec.shape(id);
        if (place.info.rows, place.info.cols) != (rows, cols) {
            return Err(StoreError::Shape {
                path: path.to_string(),
                tensor,
                found: format!("{} x {}", place.info.rows, place.info.cols),
                expected: format!("{rows} x {cols}"),
            });
        }
        places.insert(id, place);
    }
    Ok(places)
}

/// Source, first byte and length of each tensor.
pub(super) fn extents<'a>(places: impl Iterator<Item = &'a Place>) -> Vec<(usize, u64, u64)> {
    places.map(|place| (place.source, place.offset, place.info.bytes())).collect()
}

/// Refuses a model with tensors that the network does not use: leaving them out would change
/// results.
///
/// `matters` says which names belong to the language model.
pub(super) fn refuse_extra(
    path: &str,
    listing: &[TensorListing],
    matters: impl Fn(&str) -> bool,
) -> Result<(), StoreError> {
    match listing.iter().find(|tensor| !tensor.used && matters(&tensor.name)) {
        None => Ok(()),
        Some(tensor) => Err(StoreError::ExtraTensor {
            path: path.to_string(),
            tensor: tensor.name.chars().take(128).collect(),
        }),
    }
}

/// A model on disk: a GGUF file (or its parts), or a Hugging Face folder.
///
/// Every tensor the network needs was found, and its shape checked, when this value exists.
pub struct ModelFiles {
    opened: Opened,
}

impl ModelFiles {
    /// Opens what `reference` names: a GGUF file (any part of a split one), a Hugging Face folder,
    /// a folder with one GGUF model in it, or `org/repo[:file-or-quantization]` in the Hugging Face
    /// cache.
    pub fn open(reference: &str) -> Result<ModelFiles, StoreError> {
        let path = super::reference::resolve(reference, |name| std::env::var(name).ok())?;
        let opened = if path.is_dir() {
            super::hugging_face::open(&path)?
        } else {
            super::open_gguf::open(&path)?
        };
        Ok(ModelFiles { opened })
    }

    /// The network.
    pub fn spec(&self) -> &ModelSpec {
        &self.opened.spec
    }

    /// The file, first part or folder that was opened.
    pub fn path(&self) -> &Path {
        &self.opened.path
    }

    /// The files that its tensors are in.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.sources().filter_map(|source| source.path())
    }

    /// Type and shape of a tensor; `None` where the model has none such (a tied head among them).
    pub fn tensor(&self, id: TensorId) -> Option<TensorInfo> {
        self.opened.places.get(&id).map(|place| place.info)
    }

    /// How devices keep a matrix.
    pub fn packing(&self, id: TensorId) -> Result<Packing, StoreError> {
        Ok(self.place(id)?.info.packing())
    }

    /// Reads `rows` of a tensor in file order into `out`, which is resized to fit.
    ///
    /// Bytes go straight from the file into `out` by positioned reads.
    pub fn read(
        &self,
        id: TensorId,
        rows: Range<usize>,
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let place = self.place(id)?;
        let (offset, len) = self.extent(place, &rows)?;
        out.resize(len, 0);
        self.read_at(place, offset, out)
    }

    /// Reads bytes of the source that `place` is in.
    pub(super) fn read_at(
        &self,
        place: &Place,
        offset: u64,
        out: &mut [u8],
    ) -> Result<(), StoreError> {
        let source = &self.opened.sources[place.source];
        source.read_at(offset, out).map_err(|error| self.read_error(error))
    }

    pub(super) fn read_error(&self, source: io::Error) -> StoreError {
        let path = self.opened.path.display().to_string();
        StoreError::Io { path, action: "read tensor data (did the file change?)", source }
    }

    /// The files, in the order that [`Place::source`] counts.
    pub(super) fn sources(&self) -> impl Iterator<Item = &dyn Source> {
        self.opened.sources.iter().map(|source| &**source)
    }

    /// Says that `rows` of a tensor will not be read soon: the system may drop its cached copy.
    pub fn forget(&self, id: TensorId, rows: Range<usize>) -> Result<(), StoreError> {
        let place = self.place(id)?;
        let (offset, len) = self.extent(place, &rows)?;
        self.opened.sources[place.source].forget(offset, len as u64);
        Ok(())
    }

    /// Reads a whole tensor as f32; norms get [`ModelSpec::norm_offset`] added. Meant for vectors.
    pub fn read_vector(&self, id: TensorId) -> Result<Vec<f32>, StoreError> {
        let info = self.place(id)?.info;
        let mut bytes = Vec::new();
        self.read(id, 0..info.rows, &mut bytes)?;
        let mut values = vec![0.0; info.rows * info.cols];
        dequantize_row(info.dtype, &bytes, &mut values);
        if id.role.is_norm() && self.opened.spec.norm_offset != 0.0 {
            values.iter_mut().for_each(|value| *value += self.opened.spec.norm_offset);
        }
        Ok(values)
    }

    /// Where the tokenizer comes from; read again from the files, which no vocabulary outlives.
    pub fn tokenizer_source(&self) -> Result<TokenizerSource, StoreError> {
        if self.opened.path.is_dir() {
            return super::hugging_face::tokenizer(&self.opened.path);
        }
        super::open_gguf::tokenizer(&self.opened.path, &*self.opened.sources[0])
    }

    /// Identifies the model: SHA-256 in hexadecimal over config.json, the header and length of
    /// every file, 64 pages sampled over its data, and a page of every tensor. Moving or renaming
    /// files keeps it.
    pub fn fingerprint(&self) -> String {
        self.opened.fingerprint.clone()
    }

    /// Keys of the header and short forms of their values, in file order.
    pub fn metadata(&self) -> &[(String, String)] {
        &self.opened.metadata
    }

    /// Every tensor of the files, in file order.
    pub fn tensors(&self) -> &[TensorListing] {
        &self.opened.listing
    }

    /// Bytes of the tensors that the network uses.
    pub fn total_bytes(&self) -> u64 {
        self.opened.places.values().map(|place| place.info.bytes()).sum()
    }

    pub(super) fn place(&self, id: TensorId) -> Result<&Place, StoreError> {
        self.opened.places.get(&id).ok_or_else(|| StoreError::MissingTensor {
            path: self.opened.path.display().to_string(),
            tensor: id.gguf_name(),
            architecture: self.opened.spec.architecture.clone(),
        })
    }

    /// Offset in its source, and length, of `rows` of a tensor.
    pub(super) fn extent(
        &self,
        place: &Place,
        rows: &Range<usize>,
    ) -> Result<(u64, usize), StoreError> {
        if rows.start > rows.end || rows.end > place.info.rows {
            return Err(StoreError::Rows {
                path: self.opened.path.display().to_string(),
                tensor: place.name.clone(),
                start: rows.start,
                end: rows.end,
                rows: place.info.rows,
            });
        }
        let row_bytes = place.info.row_bytes();
        let offset = place.offset + rows.start as u64 * row_bytes as u64;
        Ok((offset, rows.len() * row_bytes))
    }
}
