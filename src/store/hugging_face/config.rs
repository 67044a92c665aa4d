//! Hyperparameters from config.json, as transformers 4 and 5 write it.

use crate::model::{Convention, Family, Hparams, ModelError, RopeScaling};
use crate::store::error::StoreError;
use serde_json::{Map, Value};

type Object = Map<String, Value>;

/// One object of config.json, with errors that name the file.
struct Keys<'a> {
    path: &'a str,
    object: &'a Object,
}

impl<'a> Keys<'a> {
    /// The value of `key`; null counts as absent, as it does in transformers.
    fn value(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    fn wrong(&self, key: &str, expected: &str, value: &Value) -> StoreError {
        let found: String = value.to_string().chars().take(80).collect();
        StoreError::malformed(self.path, format!("key `{key}`"), expected, found)
    }

    fn size(&self, key: &str) -> Result<Option<usize>, StoreError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let size = value.as_u64().and_then(|v| usize::try_from(v).ok());
        size.map(Some).ok_or_else(|| self.wrong(key, "a non-negative integer", value))
    }

    fn number(&self, key: &str) -> Result<Option<f64>, StoreError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.wrong(key, "a number", value))
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>, StoreError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(key, "a text", value))
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, StoreError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(key, "true or false", value))
    }

    fn object(&self, key: &str) -> Result<Option<Keys<'a>>, StoreError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let object = value.as_object().ok_or_else(|| self.wrong(key, "an object", value))?;
        Ok(Some(Keys { path: self.path, object }))
    }

    fn missing(&self, key: &str) -> StoreError {
        StoreError::MissingKey { path: self.path.to_string(), key: key.to_string() }
    }

    fn unsupported(&self, key: &str, remedy: &str) -> StoreError {
        let value = self.value(key).map(Value::to_string).unwrap_or_default();
        let source = ModelError::Unsupported {
            field: format!("key `{key}`"),
            found: value.chars().take(80).collect(),
            remedy: remedy.into(),
        };
        StoreError::Model { path: self.path.to_string(), source }
    }
}

/// What only the weights tell.
pub(super) struct Found {
    pub(super) embedding_rows: usize,
    pub(super) head: bool,
    pub(super) qkv_bias: bool,
}

/// Reads the hyperparameters of a config.json that has no weights beside it; `path` names the file in
/// errors, `name` the model.
///
/// What only weights tell is taken to be what is usual: a head unless it says that it is tied, biases
/// where the family has them.
pub fn config_hparams(path: &str, name: &str, config: &Value) -> Result<Hparams, StoreError> {
    let found = Found { embedding_rows: 0, head: true, qkv_bias: false };
    hf_hparams(path, config, name, &found)
}

/// Reads the hyperparameters of the config.json at `path`.
///
/// `found` comes from the weights, `name` from the folder.
pub(super) fn hf_hparams(
    path: &str,
    config: &Value,
    name: &str,
    found: &Found,
) -> Result<Hparams, StoreError> {
    let object = config
        .as_object()
        .ok_or_else(|| StoreError::malformed(path, "content", "an object", "something else"))?;
    let outer = Keys { path, object };
    let model_type = outer.text("model_type")?.ok_or_else(|| outer.missing("model_type"))?;
    let family = Family::find(model_type)
        .map_err(|source| StoreError::Model { path: path.to_string(), source })?;
    // Models that see images keep the language model's keys one level down.
    let keys = outer.object("text_config")?.unwrap_or(Keys { path, object });
    refuse_unknown(&outer)?;
    refuse_unknown(&keys)?;
    let gemma = family.name == "gemma3";
    // Keys that multimodal gemma configs leave out have transformers' defaults (Gemma3TextConfig).
    let needed = |key: &str, gemma_default: usize| match keys.size(key)? {
        Some(size) => Ok(size),
        None if gemma => Ok(gemma_default),
        None => Err(keys.missing(key)),
    };
    let heads = needed("num_attention_heads", 8)?;
    let kv_heads = match keys.size("num_key_value_heads")? {
        None if gemma => vec![4],
        size => size.into_iter().collect(),
    };
    let head_dim = keys.size("head_dim")?.or(gemma.then_some(256));
    let hidden = needed("hidden_size", 2304)?;
    let tied = keys.flag("tie_word_embeddings")?.or(outer.flag("tie_word_embeddings")?);
    let eps = keys.number("rms_norm_eps")?.or(gemma.then_some(1e-6));
    let activation = keys.text("hidden_activation")?.or(keys.text("hidden_act")?);
    let pattern = keys.size("sliding_window_pattern")?.or(keys.size("_sliding_window_pattern")?);
    let rope = rope(family, &keys)?;
    let (window, windowed_layers) = windows(family, &keys)?;
    Ok(Hparams {
        convention: Convention::HuggingFace,
        architecture: model_type.to_string(),
        name: name.to_string(),
        vocab: keys.size("vocab_size")?.unwrap_or(found.embedding_rows),
        hidden,
        context_len: needed("max_position_embeddings", 131_072)?,
        layers: needed("num_hidden_layers", 26)?,
        heads: vec![heads],
        kv_heads,
        feed_forward: vec![needed("intermediate_size", 9216)?],
        key_dim: head_dim,
        value_dim: None,
        rotary_dim: rope.partial.map(|part| {
            let head_dim = head_dim.unwrap_or(hidden.checked_div(heads).unwrap_or(0));
            (head_dim as f64 * part) as usize
        }),
        norm_eps: eps.ok_or_else(|| keys.missing("rms_norm_eps"))?,
        rope_base: rope.base.or(gemma.then_some(1e6)),
        rope_base_local: rope.base_local,
        rope_scaling: rope.scaling,
        window,
        window_pattern: pattern,
        windowed_layers,
        query_scalar: keys.number("query_pre_attn_scalar")?.or(gemma.then_some(256.0)),
        activation: activation.map(str::to_string),
        qkv_bias: found.qkv_bias,
        tied_head: Some(tied.unwrap_or(family.hf_tied) || !found.head),
    })
}

/// Features that change the result and that no supported family computes.
fn refuse_unknown(keys: &Keys<'_>) -> Result<(), StoreError> {
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if keys.value(key).is_some() {
            return Err(keys.unsupported(key, "use a model without it"));
        }
    }
    if keys.value("quantization_config").is_some() {
        let remedy = "use the unquantized weights (F32, F16, BF16) or a GGUF file";
        return Err(keys.unsupported("quantization_config", remedy));
    }
    if keys.flag("use_bidirectional_attention")? == Some(true) {
        return Err(keys.unsupported("use_bidirectional_attention", "attention is causal here"));
    }
    Ok(())
}

/// The sliding window, and the layers that have it.
fn windows(
    family: &Family,
    keys: &Keys<'_>,
) -> Result<(Option<usize>, Option<Vec<bool>>), StoreError> {
    let (window, layers) = (window(family, keys)?, layer_types(keys)?);
    let windowed = layers.iter().flatten().any(|&windowed| windowed);
    // Such layers of gemma have another rotary base, too.
    if family.name == "gemma3" && window.is_none() && windowed {
        return Err(keys.missing("sliding_window"));
    }
    Ok((window, layers))
}

/// The sliding window; qwen configs state one and switch it off beside it.
fn window(family: &Family, keys: &Keys<'_>) -> Result<Option<usize>, StoreError> {
    match keys.flag("use_sliding_window")? {
        Some(false) => Ok(None),
        Some(true) if keys.value("layer_types").is_none() => {
            Err(keys
                .unsupported("use_sliding_window", "save it with `layer_types` (transformers 5)"))
        }
        None if family.name.starts_with("qwen") => Ok(None),
        _ if family.name == "gemma3" && !keys.object.contains_key("sliding_window") => {
            Ok(Some(4096))
        }
        _ => keys.size("sliding_window"),
    }
}

fn layer_types(keys: &Keys<'_>) -> Result<Option<Vec<bool>>, StoreError> {
    let Some(value) = keys.value("layer_types") else { return Ok(None) };
    let expected = "an array of `full_attention` and `sliding_attention`";
    let kinds = value.as_array().ok_or_else(|| keys.wrong("layer_types", expected, value))?;
    let windowed = kinds.iter().map(|kind| match kind.as_str() {
        Some("full_attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => Err(keys.wrong("layer_types", expected, kind)),
    });
    windowed.collect::<Result<_, _>>().map(Some)
}

/// What config.json says about rotation.
struct Rope {
    base: Option<f64>,
    base_local: Option<f64>,
    scaling: RopeScaling,
    partial: Option<f64>,
}

/// Transformers 4 has `rope_theta` and `rope_scaling`, 5 has `rope_parameters`, per kind of layer
/// or not.
fn rope(family: &Family, keys: &Keys<'_>) -> Result<Rope, StoreError> {
    let mut rope = Rope {
        base: keys.number("rope_theta")?,
        base_local: keys.number("rope_local_base_freq")?,
        scaling: RopeScaling::None,
        partial: keys.number("partial_rotary_factor")?,
    };
    let new = keys.object("rope_parameters")?;
    let old = keys.object("rope_scaling")?;
    let Some(outer) = new.or(old) else { return Ok(rope) };
    let full = outer.object("full_attention")?;
    if let Some(local) = outer.object("sliding_attention")? {
        if scaling(&local)? != RopeScaling::None {
            return Err(local.unsupported("rope_type", "windowed layers are computed unscaled"));
        }
        let base = local.number("rope_theta")?;
        match family.local_rope_base {
            Some(_) => rope.base_local = base.or(rope.base_local),
            None => return Err(outer.unsupported("sliding_attention", "use a GGUF file")),
        }
    }
    let keys = full.unwrap_or(outer);
    rope.base = keys.number("rope_theta")?.or(rope.base);
    rope.partial = keys.number("partial_rotary_factor")?.or(rope.partial);
    rope.scaling = scaling(&keys)?;
    Ok(rope)
}

fn scaling(keys: &Keys<'_>) -> Result<RopeScaling, StoreError> {
    let needed = |key: &str| keys.number(key)?.ok_or_else(|| keys.missing(key));
    let key = if keys.value("rope_type").is_some() { "rope_type" } else { "type" };
    match keys.text(key)? {
        None | Some("default") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear(needed("factor")?)),
        Some("llama3") => Ok(RopeScaling::Llama3 {
            factor: needed("factor")?,
            low: needed("low_freq_factor")?,
            high: needed("high_freq_factor")?,
            original_context: needed("original_max_position_embeddings")?,
        }),
        Some(_) => Err(keys.unsupported(key, "default, linear and llama3 are computed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::RopeStyle;
    use crate::model::ModelSpec;
    use serde_json::json;

    fn spec(config: &Value) -> Result<ModelSpec, String> {
        let found = Found { embedding_rows: 100, head: true, qkv_bias: false };
        let hparams =
            hf_hparams("config.json", config, "test", &found).map_err(|e| e.to_string())?;
        ModelSpec::from_hparams(&hparams).map_err(|e| e.to_string())
    }

    fn llama() -> Value {
        json!({"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100,
               "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96,
               "rms_norm_eps": 1e-5, "max_position_embeddings": 512, "hidden_act": "silu"})
    }

    fn with(mut config: Value, key: &str, value: Value) -> Value {
        config[key] = value;
        config
    }

    /// Both spellings of llama3 scaling give the same table.
    #[test]
    fn old_and_new_rope_keys_agree() {
        let old = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
        let new = with(old.clone(), "rope_theta", json!(500000.0));
        let a = with(with(llama(), "rope_theta", json!(500000.0)), "rope_scaling", old);
        let (a, b) =
            (spec(&a).expect("v4"), spec(&with(llama(), "rope_parameters", new)).expect("v5"));
        assert_eq!(a, b);
        assert_ne!(a.ropes, spec(&llama()).expect("plain").ropes);
        assert_eq!(a.ropes[0].style, RopeStyle::Halves);
    }

    #[test]
    fn what_is_not_computed_is_named() {
        let refuse = |key: &str, value: Value, part: &str| {
            let error = spec(&with(llama(), key, value)).expect_err("refused");
            assert!(error.contains(part), "{error}");
        };
        refuse("model_type", json!("mamba"), "`mamba` is not supported; supported: llama");
        refuse("rope_scaling", json!({"type": "yarn", "factor": 4}), "yarn");
        refuse("quantization_config", json!({"quant_method": "gptq"}), "gptq");
        refuse("use_bidirectional_attention", json!(true), "use_bidirectional_attention");
        refuse("hidden_act", json!("relu"), "relu");
        refuse("num_attention_heads", json!(0), "number of heads is 0");
        refuse("num_key_value_heads", json!(3), "divisor");
        refuse("hidden_size", json!(1u64 << 40), "hidden size");
        refuse("intermediate_size", Value::Null, "`intermediate_size` is missing");
        // What is nothing, or without end, in 32 bits.
        for eps in [-1.0, 1e-50] {
            refuse("rms_norm_eps", json!(eps), "norm epsilon");
        }
        refuse("rope_theta", json!(1e-300), "rotary base");
        let tiny = json!({"rope_type": "linear", "factor": 1e-300});
        refuse("rope_scaling", tiny, "rotary frequency");
    }

    /// A multimodal gemma config leaves most keys to transformers' defaults.
    #[test]
    fn gemma3_defaults_and_windows() {
        let text = json!({"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34,
                          "intermediate_size": 10240, "sliding_window": 1024,
                          "rope_scaling": {"factor": 8.0, "rope_type": "linear"}});
        let config = json!({"model_type": "gemma3", "text_config": text});
        let window = |value: Option<Value>| {
            let mut config = config.clone();
            let keys = config["text_config"].as_object_mut().expect("an object");
            keys.remove("sliding_window");
            keys.extend(value.map(|value| ("sliding_window".to_string(), value)));
            keys.insert("layer_types".into(), vec!["sliding_attention"; 34].into());
            spec(&config).map(|spec| spec.layers[0].window)
        };
        assert_eq!(window(None), Ok(Some(4096)));
        assert!(window(Some(Value::Null)).expect_err("no window").contains("`sliding_window`"));
        let spec = spec(&config).expect("gemma-3-4b");
        let layer = &spec.layers[0];
        assert_eq!((layer.heads, layer.kv_heads, layer.head_dim), (8, 4, 256));
        assert_eq!((layer.window, spec.layers[5].window), (Some(1024), None));
        assert_eq!(spec.ropes[0].inv_freq[0], 0.125);
        assert_eq!(spec.ropes[layer.rope].inv_freq[0], 1.0);
        assert_eq!((spec.norm_offset, spec.tied_head, spec.vocab), (1.0, true, 100));
        assert_eq!(layer.attention_scale, 1.0 / 16.0);
    }
}
