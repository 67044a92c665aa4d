//! The one description of a network that every architecture is turned into.

use super::{Role, TensorId};
use crate::kernel::{Activation, CacheLayout, KvFormat, RopeStyle};

/// A decoder-only transformer with pre-norm, grouped-query attention and a gated feed-forward
/// network.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// Architecture as GGUF spells it: `llama`, `qwen2`, `qwen3`, `gemma3`.
    pub architecture: String,
    /// The file's own name for the model, for people.
    pub name: String,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Rows of the embedding and of the output head.
    pub vocab: usize,
    /// Longest sequence the model was made for, positions.
    pub context_len: usize,
    /// Epsilon of every RMS norm.
    pub norm_eps: f32,
    /// Added to every norm weight as stored (1 in Hugging Face folders of gemma).
    pub norm_offset: f32,
    /// Multiplies embedding rows (gemma: sqrt(hidden)).
    pub embed_scale: f32,
    /// Whether the output head is the embedding matrix.
    pub tied_head: bool,
    /// Rotary frequency tables; layers point into it.
    pub ropes: Vec<RopeSpec>,
    /// The layers, in order.
    pub layers: Vec<LayerSpec>,
}

/// Rotary position embedding of some layers.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// Which elements rotate together.
    pub style: RopeStyle,
    /// Radians per position for each pair, scaling included.
    pub inv_freq: Vec<f32>,
}

/// One layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Width of the feed-forward network.
    pub feed_forward: usize,
    /// Sliding window in positions, or `None` for full attention.
    pub window: Option<usize>,
    /// Index into [`ModelSpec::ropes`].
    pub rope: usize,
    /// Multiplies `q . k`.
    pub attention_scale: f32,
    /// Gate of the feed-forward network.
    pub activation: Activation,
    /// Whether q, k and v have biases (qwen2).
    pub qkv_bias: bool,
    /// Whether each q and k head is normed before rotation (qwen3, gemma3).
    pub qk_norm: bool,
    /// Whether attention and feed-forward outputs are normed before the residual add (gemma3).
    pub post_norms: bool,
}

impl LayerSpec {
    /// Shape of this layer's KV cache in a format.
    pub fn cache(&self, format: KvFormat) -> CacheLayout {
        CacheLayout { kv_heads: self.kv_heads, head_dim: self.head_dim, format }
    }

    /// The tensors this layer has, in the order of computation.
    pub fn roles(&self) -> Vec<Role> {
        let mut roles = vec![Role::AttentionNorm, Role::Query, Role::Key, Role::Value];
        if self.qkv_bias {
            roles.extend([Role::QueryBias, Role::KeyBias, Role::ValueBias]);
        }
        if self.qk_norm {
            roles.extend([Role::QueryNorm, Role::KeyNorm]);
        }
        roles.push(Role::AttentionOutput);
        if self.post_norms {
            roles.push(Role::PostAttentionNorm);
        }
        roles.extend([Role::FeedForwardNorm, Role::Gate, Role::Up, Role::Down]);
        if self.post_norms {
            roles.push(Role::PostFeedForwardNorm);
        }
        roles
    }

    /// Rows and columns of this layer's tensor `role` in a model `hidden` wide; vectors have one
    /// row.
    fn shape(&self, role: Role, hidden: usize) -> (usize, usize) {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        match role {
            Role::Query => (q, hidden),
            Role::Key | Role::Value => (kv, hidden),
            Role::AttentionOutput => (hidden, q),
            Role::QueryBias => (1, q),
            Role::KeyBias | Role::ValueBias => (1, kv),
            Role::QueryNorm | Role::KeyNorm => (1, self.head_dim),
            Role::Gate | Role::Up => (self.feed_forward, hidden),
            Role::Down => (hidden, self.feed_forward),
            _ => (1, hidden),
        }
    }
}

impl ModelSpec {
    /// Whether layer `layer` caches keys without their bias in a format: the bias is one number for all
    /// positions, and in some models so large that few bits would be left for the rest. It is taken out
    /// where all of a head rotates; see [`crate::kernel::KeyBias`].
    pub fn splits_key_bias(&self, layer: usize, format: KvFormat) -> bool {
        let layer = &self.layers[layer];
        let rotated = 2 * self.ropes[layer.rope].inv_freq.len();
        format.is_compressed() && layer.qkv_bias && rotated == layer.head_dim
    }

    /// Every tensor the model has, in the order of computation; a tied head is not listed.
    pub fn tensors(&self) -> Vec<TensorId> {
        let mut ids = vec![TensorId::global(Role::Embedding)];
        for (index, layer) in self.layers.iter().enumerate() {
            ids.extend(layer.roles().into_iter().map(|role| TensorId::of_layer(index, role)));
        }
        ids.push(TensorId::global(Role::OutputNorm));
        if !self.tied_head {
            ids.push(TensorId::global(Role::Output));
        }
        ids
    }

    /// Rows (output features) and columns of a tensor of [`ModelSpec::tensors`]; vectors have one
    /// row.
    pub fn shape(&self, id: TensorId) -> (usize, usize) {
        match (id.layer, id.role) {
            (Some(layer), role) => self.layers[layer as usize].shape(role, self.hidden),
            (None, Role::Embedding | Role::Output) => (self.vocab, self.hidden),
            (None, _) => (1, self.hidden),
        }
    }
}
