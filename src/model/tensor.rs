//! Names of tensors: what a tensor is for, and what files call it.

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Token embedding `[vocab][hidden]`.
    Embedding,
    /// Norm before the output head.
    OutputNorm,
    /// Output head `[vocab][hidden]`; absent where it is the embedding.
    Output,
    /// Norm before attention.
    AttentionNorm,
    /// Query projection.
    Query,
    /// Key projection.
    Key,
    /// Value projection.
    Value,
    /// Attention output projection.
    AttentionOutput,
    /// Bias of the query projection.
    QueryBias,
    /// Bias of the key projection.
    KeyBias,
    /// Bias of the value projection.
    ValueBias,
    /// Norm of each query head.
    QueryNorm,
    /// Norm of each key head.
    KeyNorm,
    /// Norm of the attention output.
    PostAttentionNorm,
    /// Norm before the feed-forward network.
    FeedForwardNorm,
    /// Gate projection.
    Gate,
    /// Up projection.
    Up,
    /// Down projection.
    Down,
    /// Norm of the feed-forward output.
    PostFeedForwardNorm,
}

impl Role {
    /// Whether the tensor is the weight of an RMS norm.
    pub fn is_norm(self) -> bool {
        matches!(
            self,
            Role::OutputNorm
                | Role::AttentionNorm
                | Role::QueryNorm
                | Role::KeyNorm
                | Role::PostAttentionNorm
                | Role::FeedForwardNorm
                | Role::PostFeedForwardNorm
        )
    }

    /// Whether the tensor is one-dimensional: a norm or a bias.
    pub fn is_vector(self) -> bool {
        self.is_norm() || matches!(self, Role::QueryBias | Role::KeyBias | Role::ValueBias)
    }

    fn gguf_stem(self) -> &'static str {
        match self {
            Role::Embedding => "token_embd.weight",
            Role::OutputNorm => "output_norm.weight",
            Role::Output => "output.weight",
            Role::AttentionNorm => "attn_norm.weight",
            Role::Query => "attn_q.weight",
            Role::Key => "attn_k.weight",
            Role::Value => "attn_v.weight",
            Role::AttentionOutput => "attn_output.weight",
            Role::QueryBias => "attn_q.bias",
            Role::KeyBias => "attn_k.bias",
            Role::ValueBias => "attn_v.bias",
            Role::QueryNorm => "attn_q_norm.weight",
            Role::KeyNorm => "attn_k_norm.weight",
            Role::PostAttentionNorm => "post_attention_norm.weight",
            Role::FeedForwardNorm => "ffn_norm.weight",
            Role::Gate => "ffn_gate.weight",
            Role::Up => "ffn_up.weight",
            Role::Down => "ffn_down.weight",
            Role::PostFeedForwardNorm => "post_ffw_norm.weight",
        }
    }

    fn hf_stem(self, post_norms: bool) -> &'static str {
        match self {
            Role::Embedding => "model.embed_tokens.weight",
            Role::OutputNorm => "model.norm.weight",
            Role::Output => "lm_head.weight",
            Role::AttentionNorm => "input_layernorm.weight",
            Role::Query => "self_attn.q_proj.weight",
            Role::Key => "self_attn.k_proj.weight",
            Role::Value => "self_attn.v_proj.weight",
            Role::AttentionOutput => "self_attn.o_proj.weight",
            Role::QueryBias => "self_attn.q_proj.bias",
            Role::KeyBias => "self_attn.k_proj.bias",
            Role::ValueBias => "self_attn.v_proj.bias",
            Role::QueryNorm => "self_attn.q_norm.weight",
            Role::KeyNorm => "self_attn.k_norm.weight",
            Role::PostAttentionNorm => "post_attention_layernorm.weight",
            Role::FeedForwardNorm if post_norms => "pre_feedforward_layernorm.weight",
            Role::FeedForwardNorm => "post_attention_layernorm.weight",
            Role::Gate => "mlp.gate_proj.weight",
            Role::Up => "mlp.up_proj.weight",
            Role::Down => "mlp.down_proj.weight",
            Role::PostFeedForwardNorm => "post_feedforward_layernorm.weight",
        }
    }
}

/// A tensor of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId {
    /// Layer index, or `None` for the embedding and the head.
    pub layer: Option<u32>,
    /// What it is for.
    pub role: Role,
}

impl TensorId {
    /// A tensor of layer `layer`.
    pub fn of_layer(layer: usize, role: Role) -> TensorId {
        TensorId { layer: Some(layer as u32), role }
    }

    /// A tensor outside the layers.
    pub fn global(role: Role) -> TensorId {
        TensorId { layer: None, role }
    }

    /// Name in GGUF files (llama.cpp's `gguf-py/gguf/constants.py`).
    pub fn gguf_name(&self) -> String {
        match self.layer {
            Some(layer) => format!("blk.{layer}.{}", self.role.gguf_stem()),
            None => self.role.gguf_stem().to_string(),
        }
    }

    /// Name in Hugging Face folders.
    ///
    /// `post_norms`: whether the layer norms its outputs too ([`super::LayerSpec::post_norms`]), which
    /// changes what `post_attention_layernorm` means.
    pub fn hf_name(&self, post_norms: bool) -> String {
        match self.layer {
            Some(layer) => format!("model.layers.{layer}.{}", self.role.hf_stem(post_norms)),
            None => self.role.hf_stem(post_norms).to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_both_conventions() {
        let norm = TensorId::of_layer(3, Role::FeedForwardNorm);
        assert_eq!(norm.gguf_name(), "blk.3.ffn_norm.weight");
        assert_eq!(norm.hf_name(false), "model.layers.3.post_attention_layernorm.weight");
        assert_eq!(norm.hf_name(true), "model.layers.3.pre_feedforward_layernorm.weight");
        assert_eq!(TensorId::global(Role::Output).hf_name(false), "lm_head.weight");
    }
}
