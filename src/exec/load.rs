//! Weights from the store to the device: what is resident is loaded, what streams gets views.

use super::ExecError;
use crate::backend::Device;
use crate::forward::{HeadWeights, LayerWeights, Slabs};
use crate::kernel::{Buffer, Matrix};
use crate::model::{Role, TensorId};
use crate::schedule::{Part, PartPlan, Piecework, StreamPlan};
use crate::store::ModelFiles;

/// Bytes that are read from the files at a time.
const LOAD_BYTES: usize = 16 << 20;

/// Brings tensors of one model to one device; `bytes` is reused between tensors.
pub(super) struct Loader<'a> {
    pub(super) files: &'a ModelFiles,
    pub(super) device: &'a mut dyn Device,
    pub(super) plan: &'a StreamPlan,
    /// The device's ring, if anything streams.
    pub(super) ring: Option<Buffer>,
    pub(super) bytes: &'a mut Vec<u8>,
}

impl Loader<'_> {
    /// The slabs of `tensor` among the segments of a part.
    fn slabs(&mut self, part: &PartPlan, tensor: TensorId) -> Result<Slabs, ExecError> {
        let info = self.files.tensor(tensor).ok_or(ExecError::MissingTensor(tensor))?;
        let pieces: Vec<Piecework> =
            part.segments.iter().filter(|s| s.tensor == tensor).copied().collect();
        let mut slabs = Slabs { rows: info.rows, slabs: Vec::new() };
        let mut at = 0;
        while let Some(first) = pieces.get(at) {
            let run = resident_run(&pieces[at..]);
            let start = first.segment.first_row;
            let matrix = match first.stream {
                Some(stream) => self.view(stream, first)?,
                None => self.resident(tensor, &pieces[at..at + run])?,
            };
            slabs.slabs.push((start, matrix));
            at += run;
        }
        Ok(slabs)
    }

    fn view(&mut self, stream: usize, piece: &Piecework) -> Result<Matrix, ExecError> {
        let packing = self.files.packing(piece.tensor)?;
        let ring = self.ring.expect("a ring was made for streams");
        let offset = self.plan.streams[stream].place.offset;
        Ok(self.device.view(packing.dtype, piece.segment.rows, packing.cols, ring, offset))
    }

    fn resident(&mut self, id: TensorId, pieces: &[Piecework]) -> Result<Matrix, ExecError> {
        let info = self.files.tensor(id).ok_or(ExecError::MissingTensor(id))?;
        let rows: usize = pieces.iter().map(|piece| piece.segment.rows).sum();
        let first = pieces[0].segment.first_row;
        self.files.read(id, first..first + rows, self.bytes)?;
        let what = id.gguf_name();
        let matrix = self.device.load(info.dtype, rows, info.cols, self.bytes, &what)?;
        // The device has its own copy now; the system need not keep another.
        self.files.forget(id, first..first + rows)?;
        Ok(matrix)
    }

    fn vector(&mut self, id: TensorId) -> Result<Buffer, ExecError> {
        let values = self.files.read_vector(id)?;
        let buffer = self.device.alloc(values.len() * 4, &id.gguf_name())?;
        self.device.write(buffer, 0, bytemuck::cast_slice(&values))?;
        Ok(buffer)
    }

    /// All tensors of layer `index`, whose parts are `attention` and `feed_forward`.
    pub(super) fn layer(
        &mut self,
        index: usize,
        attention: &PartPlan,
        feed_forward: &PartPlan,
    ) -> Result<LayerWeights, ExecError> {
        let spec = self.files.spec().layers[index].clone();
        // Where the host attends, its output projection is in the other part.
        let output = if self.plan.host_attention { feed_forward } else { attention };
        let id = |role| TensorId::of_layer(index, role);
        let mut vectors = |wanted: bool, roles: &[Role]| -> Result<Vec<Buffer>, ExecError> {
            let roles = if wanted { roles } else { &[] };
            roles.iter().map(|&role| self.vector(id(role))).collect()
        };
        let bias = vectors(spec.qkv_bias, &[Role::QueryBias, Role::KeyBias, Role::ValueBias])?;
        let qk_norm = vectors(spec.qk_norm, &[Role::QueryNorm, Role::KeyNorm])?;
        let post = [Role::PostAttentionNorm, Role::PostFeedForwardNorm];
        let post_norms = vectors(spec.post_norms, &post)?;
        Ok(LayerWeights {
            attention_norm: self.vector(id(Role::AttentionNorm))?,
            qkv: [
                self.slabs(attention, id(Role::Query))?,
                self.slabs(attention, id(Role::Key))?,
                self.slabs(attention, id(Role::Value))?,
            ],
            qkv_bias: bias.try_into().ok(),
            qk_norm: qk_norm.try_into().ok(),
            attention_output: self.slabs(output, id(Role::AttentionOutput))?,
            feed_forward_norm: self.vector(id(Role::FeedForwardNorm))?,
            gate: self.slabs(feed_forward, id(Role::Gate))?,
            up: self.slabs(feed_forward, id(Role::Up))?,
            down: self.slabs(feed_forward, id(Role::Down))?,
            post_norms: post_norms.try_into().ok(),
        })
    }

    /// The final norm and the output head (the embedding matrix where they are tied).
    pub(super) fn head(&mut self) -> Result<HeadWeights, ExecError> {
        let parts = self.plan.parts.iter().filter(|p| matches!(p.part, Part::Head(_)));
        let head = crate::schedule::head_tensor(self.files.spec());
        let output = parts.map(|part| self.slabs(part, head)).collect::<Result<_, _>>()?;
        Ok(HeadWeights { norm: self.vector(TensorId::global(Role::OutputNorm))?, output })
    }
}

/// How many of the first pieces make one slab: one stream, or residents up to [`LOAD_BYTES`].
fn resident_run(pieces: &[Piecework]) -> usize {
    let mut bytes = 0;
    let fits = |piece: &&Piecework| {
        bytes += piece.segment.bytes;
        piece.stream.is_none() && bytes <= LOAD_BYTES
    };
    pieces.iter().take_while(fits).count().max(1)
}
