//! Hyperparameters as files give them, before any family's rules are applied.

use super::ModelError;

/// Which program's conventions the weights follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convention {
    /// llama.cpp's: `llama` q and k rows permuted for adjacent pairs, gemma norms with 1 added.
    Gguf,
    /// transformers': rotation of halves, norms as trained.
    HuggingFace,
}

/// How rotary frequencies are stretched for contexts longer than the first training.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every frequency divided by the factor.
    Linear(f64),
    /// Llama 3: low frequencies divided, high ones kept, a ramp between.
    Llama3 {
        /// Divides the low frequencies.
        factor: f64,
        /// Wavelengths above `original_context / low` are low frequencies.
        low: f64,
        /// Wavelengths below `original_context / high` are high frequencies.
        high: f64,
        /// Context of the first training, positions.
        original_context: f64,
    },
    /// Each frequency divided by its own factor (`rope_freqs.weight`).
    Factors(Vec<f32>),
}

/// What a header says about a network. Options are `None` where the file is silent.
#[derive(Clone, Debug, PartialEq)]
pub struct Hparams {
    /// Where the file comes from.
    pub convention: Convention,
    /// `general.architecture` or `model_type`.
    pub architecture: String,
    /// The file's own name for the model.
    pub name: String,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Longest sequence, positions.
    pub context_len: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads: one value, or one per layer.
    pub heads: Vec<usize>,
    /// Key/value heads: one value, or one per layer; empty means as many as query heads.
    pub kv_heads: Vec<usize>,
    /// Feed-forward width: one value, or one per layer.
    pub feed_forward: Vec<usize>,
    /// Elements of a key head.
    pub key_dim: Option<usize>,
    /// Elements of a value head.
    pub value_dim: Option<usize>,
    /// Rotated elements of a head.
    pub rotary_dim: Option<usize>,
    /// Epsilon of the RMS norms.
    pub norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_base: Option<f64>,
    /// Base of the rotary frequencies of layers with a window.
    pub rope_base_local: Option<f64>,
    /// Scaling of the rotary frequencies of layers without a window.
    pub rope_scaling: RopeScaling,
    /// Sliding window, positions.
    pub window: Option<usize>,
    /// Every how many layers one sees everything.
    pub window_pattern: Option<usize>,
    /// Which layers have the window, where the file lists them.
    pub windowed_layers: Option<Vec<bool>>,
    /// Attention divides by the square root of this instead of the head's width.
    pub query_scalar: Option<f64>,
    /// Gate of the feed-forward network, as the file calls it.
    pub activation: Option<String>,
    /// Whether the file has biases of q, k and v; some llama-like models do.
    pub qkv_bias: bool,
    /// Whether the output head is the embedding.
    pub tied_head: Option<bool>,
}

impl Hparams {
    /// Checks that every size lies within what a real network can have.
    ///
    /// Headers are hostile: everything computed from these sizes later must neither overflow nor
    /// allocate without bound.
    pub(super) fn check(&self) -> Result<(), ModelError> {
        in_range("number of layers", self.layers, 1, 4096)?;
        in_range("hidden size", self.hidden, 1, 1 << 20)?;
        in_range("vocabulary size", self.vocab, 1, 1 << 26)?;
        in_range("context length", self.context_len, 1, 1 << 30)?;
        // They are computed with in 32 bits.
        if !(self.norm_eps as f32 > 0.0 && self.norm_eps < 1.0) {
            return Err(out_of_range("norm epsilon", self.norm_eps, "between 0 and 1"));
        }
        if let Some(window) = self.window {
            in_range("sliding window", window, 1, 1 << 30)?;
        }
        if let Some(pattern) = self.window_pattern {
            in_range("sliding window pattern", pattern, 1, 4096)?;
        }
        for (field, value) in [
            ("rotary base", self.rope_base),
            ("local rotary base", self.rope_base_local),
            ("query scalar", self.query_scalar),
        ] {
            if let Some(value) = value
                && !((value as f32).is_finite() && value as f32 > 0.0)
            {
                return Err(out_of_range(field, value, "a positive number"));
            }
        }
        Ok(())
    }

    /// The value of a per-layer list for `layer`: lists of one value count for every layer.
    pub(super) fn of_layer(
        &self,
        field: &'static str,
        list: &[usize],
        layer: usize,
        most: usize,
    ) -> Result<usize, ModelError> {
        let value = match list {
            [value] => *value,
            list if list.len() == self.layers => list[layer],
            list => {
                let expected = format!("1 value or {} values, one a layer", self.layers);
                return Err(out_of_range(field, format!("{} values", list.len()), &expected));
            }
        };
        in_range(field, value, 1, most)?;
        Ok(value)
    }
}

pub(super) fn in_range(
    field: &'static str,
    found: usize,
    least: usize,
    most: usize,
) -> Result<(), ModelError> {
    if (least..=most).contains(&found) {
        return Ok(());
    }
    Err(out_of_range(field, found, &format!("{least} to {most}")))
}

pub(super) fn out_of_range(
    field: &'static str,
    found: impl ToString,
    expected: &str,
) -> ModelError {
    ModelError::OutOfRange { field, found: found.to_string(), expected: expected.to_string() }
}
