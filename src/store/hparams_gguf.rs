//! Hyperparameters from GGUF metadata.

use super::error::StoreError;
use super::gguf::{GgufHeader, Value};
use crate::model::{Convention, Family, Hparams, ModelError, RopeScaling};

/// Keys of one architecture, with errors that name the file.
struct Keys<'a> {
    path: &'a str,
    header: &'a GgufHeader,
    architecture: &'a str,
}

impl<'a> Keys<'a> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn value(&self, key: &str) -> Option<&'a Value> {
        self.header.get(&self.name(key))
    }

    fn wrong(&self, key: &str, expected: &str, value: &Value) -> StoreError {
        let at = format!("key `{}`", self.name(key));
        StoreError::malformed(self.path, at, expected, value.display())
    }

    fn missing(&self, key: &str) -> StoreError {
        StoreError::MissingKey { path: self.path.to_string(), key: self.name(key) }
    }

    /// One size, or `None` where the key is absent.
    fn size(&self, key: &str) -> Result<Option<usize>, StoreError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let size = value.as_u64().and_then(|v| usize::try_from(v).ok());
        size.map(Some).ok_or_else(|| self.wrong(key, "a non-negative integer", value))
    }

    fn size_needed(&self, key: &str) -> Result<usize, StoreError> {
        self.size(key)?.ok_or_else(|| self.missing(key))
    }

    /// One size, or one per layer; empty where the key is absent.
    fn sizes(&self, key: &str) -> Result<Vec<usize>, StoreError> {
        let Some(value) = self.value(key) else { return Ok(Vec::new()) };
        let list = match value.as_u64() {
            Some(v) => usize::try_from(v).ok().map(|v| vec![v]),
            None => value
                .integers()
                .and_then(|list| list.into_iter().map(|v| usize::try_from(v).ok()).collect()),
        };
        list.ok_or_else(|| self.wrong(key, "non-negative integers", value))
    }

    fn number(&self, key: &str) -> Result<Option<f64>, StoreError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.wrong(key, "a number", value))
    }

    fn unsupported(&self, key: &str, found: String, remedy: &str) -> StoreError {
        let source = ModelError::Unsupported {
            field: format!("key `{}`", self.name(key)),
            found,
            remedy: remedy.into(),
        };
        StoreError::Model { path: self.path.to_string(), source }
    }
}

/// Reads the hyperparameters of a header.
///
/// `vocab`, `tied_head` and `qkv_bias` come from the tensors, `rope_factors` is the content of
/// `rope_freqs.weight`, if the file has it.
pub(super) fn gguf_hparams(
    path: &str,
    header: &GgufHeader,
    vocab: usize,
    tied_head: bool,
    qkv_bias: bool,
    rope_factors: Option<Vec<f32>>,
) -> Result<Hparams, StoreError> {
    let key = "general.architecture";
    let value = header
        .get(key)
        .ok_or_else(|| StoreError::MissingKey { path: path.to_string(), key: key.into() })?;
    let architecture = value.as_str().ok_or_else(|| {
        StoreError::malformed(path, format!("key `{key}`"), "a text", value.display())
    })?;
    // Before any other key, so that a model of another kind is refused by its name.
    Family::find(architecture)
        .map_err(|source| StoreError::Model { path: path.to_string(), source })?;
    let keys = Keys { path, header, architecture };
    refuse_unknown(&keys)?;
    let (window_pattern, windowed_layers) = window_pattern(&keys)?;
    Ok(Hparams {
        convention: Convention::Gguf,
        architecture: architecture.to_string(),
        name: header.get("general.name").and_then(Value::as_str).unwrap_or("unnamed").to_string(),
        vocab,
        hidden: keys.size_needed("embedding_length")?,
        context_len: keys.size_needed("context_length")?,
        layers: keys.size_needed("block_count")?,
        heads: needed(&keys, "attention.head_count")?,
        kv_heads: keys.sizes("attention.head_count_kv")?,
        feed_forward: needed(&keys, "feed_forward_length")?,
        key_dim: keys.size("attention.key_length")?,
        value_dim: keys.size("attention.value_length")?,
        rotary_dim: keys.size("rope.dimension_count")?,
        norm_eps: keys
            .number("attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| keys.missing("attention.layer_norm_rms_epsilon"))?,
        rope_base: keys.number("rope.freq_base")?,
        rope_base_local: keys.number("rope.freq_base_swa")?,
        rope_scaling: rope_scaling(&keys, rope_factors)?,
        window: keys.size("attention.sliding_window")?.filter(|&window| window > 0),
        window_pattern,
        windowed_layers,
        query_scalar: None,
        activation: None,
        qkv_bias,
        tied_head: Some(tied_head),
    })
}

fn needed(keys: &Keys<'_>, key: &str) -> Result<Vec<usize>, StoreError> {
    let list = keys.sizes(key)?;
    if list.is_empty() { Err(keys.missing(key)) } else { Ok(list) }
}

/// Features that change the result and that no supported family computes.
fn refuse_unknown(keys: &Keys<'_>) -> Result<(), StoreError> {
    let experts = keys.size("expert_count")?.unwrap_or(0);
    if experts > 0 {
        let remedy = "use a dense model; mixtures of experts are not computed";
        return Err(keys.unsupported("expert_count", experts.to_string(), remedy));
    }
    if keys.value("attention.causal").and_then(Value::as_bool) == Some(false) {
        let remedy = "use a model that generates text; attention is causal here";
        return Err(keys.unsupported("attention.causal", "false".into(), remedy));
    }
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if let Some(cap) = keys.number(key)?
            && cap != 0.0
        {
            return Err(keys.unsupported(key, cap.to_string(), "use a model without it"));
        }
    }
    Ok(())
}

/// `attention.sliding_window_pattern`: a period, or a flag per layer.
type Pattern = (Option<usize>, Option<Vec<bool>>);

fn window_pattern(keys: &Keys<'_>) -> Result<Pattern, StoreError> {
    let key = "attention.sliding_window_pattern";
    match keys.value(key) {
        Some(value @ Value::Numbers(..)) => {
            let flags = value.integers().map(|list| list.iter().map(|&v| v != 0).collect());
            flags
                .map(|flags| (None, Some(flags)))
                .ok_or_else(|| keys.wrong(key, "a period or a flag per layer", value))
        }
        _ => Ok((keys.size(key)?, None)),
    }
}

fn rope_scaling(
    keys: &Keys<'_>,
    rope_factors: Option<Vec<f32>>,
) -> Result<RopeScaling, StoreError> {
    let key = "rope.scaling.type";
    let kind = match keys.value(key) {
        None => None,
        Some(value) => Some(value.as_str().ok_or_else(|| keys.wrong(key, "a text", value))?),
    };
    let scaling = match kind {
        Some("none") => RopeScaling::None,
        Some("linear") | None => {
            let factor = match keys.number("rope.scaling.factor")? {
                None => keys.number("rope.scale_linear")?,
                factor => factor,
            };
            // llama.cpp takes 0 for "not scaled".
            match factor {
                None | Some(0.0 | 1.0) => RopeScaling::None,
                Some(factor) => RopeScaling::Linear(factor),
            }
        }
        Some(other) => {
            let found = format!("`{}`", other.chars().take(32).collect::<String>());
            let remedy = "none, linear and rope_freqs.weight are computed; use another file";
            return Err(keys.unsupported(key, found, remedy));
        }
    };
    match (scaling, rope_factors) {
        (RopeScaling::None, Some(factors)) => Ok(RopeScaling::Factors(factors)),
        (scaling, None) => Ok(scaling),
        (_, Some(_)) => Err(keys.unsupported(
            key,
            "linear beside a tensor rope_freqs.weight".into(),
            "one scaling at a time is computed",
        )),
    }
}
