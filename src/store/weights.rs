//! Segments of packed weights, wherever they come from.

use super::{ModelFiles, StoreError};
use crate::model::TensorId;
use crate::quant::{Packing, pack, segments};
use std::sync::Arc;

/// Where segments of weights are read from. Reads may come from several threads at once.
pub trait WeightSource: Send + Sync {
    /// Fills `out` with the packed bytes of segment `index` of matrix `id`. Its address is a multiple of
    /// [`crate::quant::SEGMENT_ALIGN`] and its length [`crate::quant::Segment::padded`] bytes.
    fn read_segment(&self, id: TensorId, index: usize, out: &mut [u8]) -> Result<(), StoreError>;
}

/// Reads rows from the model's own files and packs them.
pub struct FileWeights {
    files: Arc<ModelFiles>,
}

impl FileWeights {
    /// The weights of `files`.
    pub fn new(files: Arc<ModelFiles>) -> FileWeights {
        FileWeights { files }
    }
}

impl WeightSource for FileWeights {
    fn read_segment(&self, id: TensorId, index: usize, out: &mut [u8]) -> Result<(), StoreError> {
        let packing = self.files.packing(id)?;
        let segment = segments(&packing)[index];
        let rows = segment.first_row..segment.first_row + segment.rows;
        let mut bytes = Vec::new();
        self.files.read(id, rows, &mut bytes)?;
        let part = Packing::new(packing.dtype, segment.rows, packing.cols);
        pack(&part, &bytes, &mut out[..segment.bytes]);
        Ok(())
    }
}
