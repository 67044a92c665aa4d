//! The architectures, one table: what sets each apart from plain llama.

use super::ModelError;
use crate::kernel::{Activation, RopeStyle};

/// What the members of an architecture have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Family {
    /// `general.architecture` of GGUF files.
    pub name: &'static str,
    /// `model_type` of config.json.
    pub hf_types: &'static [&'static str],
    /// Pairing of rotated elements in GGUF files (Hugging Face folders always rotate halves).
    pub gguf_rope: RopeStyle,
    /// Gate of the feed-forward network.
    pub activation: Activation,
    /// Names that `hidden_act` may have.
    pub activation_names: &'static [&'static str],
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether q and k heads are normed.
    pub qk_norm: bool,
    /// Whether attention and feed-forward outputs are normed.
    pub post_norms: bool,
    /// Added to norm weights of Hugging Face folders.
    pub hf_norm_offset: f32,
    /// Whether embeddings are multiplied by sqrt(hidden).
    pub scaled_embedding: bool,
    /// Whether the head is tied where config.json is silent.
    pub hf_tied: bool,
    /// Every how many layers one is without window, where the file gives a window but no pattern.
    pub window_pattern: Option<usize>,
    /// Rotary base of windowed layers, where the file is silent; `None`: as the other layers.
    pub local_rope_base: Option<f64>,
    /// Number of layers of the member whose attention scale is 1/sqrt(hidden/heads) (GGUF files do not
    /// say it; llama.cpp knows the 27B by its depth too).
    pub query_scalar_by_hidden: Option<usize>,
}

const LLAMA: Family = Family {
    name: "llama",
    hf_types: &["llama", "mistral"],
    gguf_rope: RopeStyle::Adjacent,
    activation: Activation::Silu,
    activation_names: &["silu", "swish"],
    qkv_bias: false,
    qk_norm: false,
    post_norms: false,
    hf_norm_offset: 0.0,
    scaled_embedding: false,
    hf_tied: false,
    window_pattern: None,
    local_rope_base: None,
    query_scalar_by_hidden: None,
};

const FAMILIES: [Family; 4] = [
    LLAMA,
    Family {
        name: "qwen2",
        hf_types: &["qwen2"],
        gguf_rope: RopeStyle::Halves,
        qkv_bias: true,
        ..LLAMA
    },
    Family {
        name: "qwen3",
        hf_types: &["qwen3"],
        gguf_rope: RopeStyle::Halves,
        qk_norm: true,
        ..LLAMA
    },
    Family {
        name: "gemma3",
        hf_types: &["gemma3_text", "gemma3"],
        gguf_rope: RopeStyle::Halves,
        activation: Activation::GeluTanh,
        activation_names: &["gelu_pytorch_tanh"],
        qk_norm: true,
        post_norms: true,
        hf_norm_offset: 1.0,
        scaled_embedding: true,
        hf_tied: true,
        window_pattern: Some(6),
        local_rope_base: Some(10_000.0),
        query_scalar_by_hidden: Some(62),
        ..LLAMA
    },
];

impl Family {
    /// The family that a GGUF or Hugging Face file names.
    pub fn find(name: &str) -> Result<&'static Family, ModelError> {
        FAMILIES.iter().find(|f| f.name == name || f.hf_types.contains(&name)).ok_or_else(|| {
            ModelError::UnknownArchitecture {
                found: name.chars().take(64).collect(),
                supported: supported_architectures(),
            }
        })
    }
}

/// The names of the supported architectures, for messages.
pub fn supported_architectures() -> String {
    FAMILIES.map(|f| f.name).join(", ")
}
