//! Weights from the store to the device.

use super::ExecError;
use crate::backend::Device;
use crate::forward::{HeadWeights, LayerWeights};
use crate::kernel::{Buffer, Matrix};
use crate::model::{Role, TensorId};
use crate::store::ModelFiles;

/// Brings tensors of one model to one device; `bytes` is reused between tensors.
pub(super) struct Loader<'a> {
    pub(super) files: &'a ModelFiles,
    pub(super) device: &'a mut dyn Device,
    pub(super) bytes: &'a mut Vec<u8>,
}

impl Loader<'_> {
    fn matrix(&mut self, id: TensorId) -> Result<Matrix, ExecError> {
        let info = self.files.tensor(id).ok_or(ExecError::MissingTensor(id))?;
        self.files.read(id, 0..info.rows, self.bytes)?;
        let what = format!("{id:?}");
        Ok(self.device.load(info.dtype, info.rows, info.cols, self.bytes, &what)?)
    }

    fn vector(&mut self, id: TensorId) -> Result<Buffer, ExecError> {
        let values = self.files.read_vector(id)?;
        let buffer = self.device.alloc(values.len() * 4, &format!("{id:?}"))?;
        self.device.write(buffer, 0, bytemuck::cast_slice(&values))?;
        Ok(buffer)
    }

    /// All tensors of layer `index`.
    pub(super) fn layer(&mut self, index: usize) -> Result<LayerWeights, ExecError> {
        let spec = self.files.spec().layers[index].clone();
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
                self.matrix(id(Role::Query))?,
                self.matrix(id(Role::Key))?,
                self.matrix(id(Role::Value))?,
            ],
            qkv_bias: bias.try_into().ok(),
            qk_norm: qk_norm.try_into().ok(),
            attention_output: self.matrix(id(Role::AttentionOutput))?,
            feed_forward_norm: self.vector(id(Role::FeedForwardNorm))?,
            gate: self.matrix(id(Role::Gate))?,
            up: self.matrix(id(Role::Up))?,
            down: self.matrix(id(Role::Down))?,
            post_norms: post_norms.try_into().ok(),
        })
    }

    /// The final norm and the output head (the embedding matrix where they are tied).
    pub(super) fn head(&mut self) -> Result<HeadWeights, ExecError> {
        let tied = self.files.spec().tied_head;
        let output = if tied { Role::Embedding } else { Role::Output };
        Ok(HeadWeights {
            norm: self.vector(TensorId::global(Role::OutputNorm))?,
            output: self.matrix(TensorId::global(output))?,
        })
    }
}
