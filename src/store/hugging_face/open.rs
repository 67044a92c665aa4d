//! Opens a Hugging Face folder.

use super::config::{Found, hf_hparams};
use super::weights::{SMALL_MAX, Weights, read_file};
use crate::model::{ModelSpec, Role, TensorId};
use crate::store::error::StoreError;
use crate::store::files::{Opened, extents, places, refuse_extra};
use crate::store::fingerprint::fingerprint;
use serde_json::Value;
use std::collections::HashSet;
use std::path::Path;

/// What tensor names may begin with instead of `model.`: models that also see images keep the
/// language model apart, bare models drop the prefix.
const PREFIXES: [&str; 4] = ["model.", "language_model.model.", "model.language_model.", ""];

/// Opens the model in `folder`.
pub(in crate::store) fn open(folder: &Path) -> Result<Opened, StoreError> {
    let path = folder.display().to_string();
    let config_path = folder.join("config.json");
    let shown_config = config_path.display().to_string();
    let config_bytes =
        read_file(&config_path, SMALL_MAX)?.ok_or_else(|| StoreError::MissingFile {
            path: path.clone(),
            file: "config.json".into(),
            remedy: "give the folder that save_pretrained wrote",
        })?;
    let config: Value = serde_json::from_slice(&config_bytes)
        .map_err(|e| StoreError::malformed(&shown_config, "content", "valid JSON", e))?;
    let weights = Weights::open(folder)?;
    let prefix = prefix(&weights);
    let entry = |id: TensorId| weights.tensors.get(&local_name(id, false, prefix));
    let rows = entry(TensorId::global(Role::Embedding)).and_then(|e| e.shape.first().copied());
    let found = Found {
        embedding_rows: rows.unwrap_or(0),
        head: entry(TensorId::global(Role::Output)).is_some(),
        qkv_bias: entry(TensorId::of_layer(0, Role::QueryBias)).is_some(),
    };
    let hparams = hf_hparams(&shown_config, &config, &model_name(folder), &found)?;
    let spec = ModelSpec::from_hparams(&hparams)
        .map_err(|source| StoreError::Model { path: shown_config, source })?;
    let post_norms = |id: TensorId| id.layer.is_some_and(|l| spec.layers[l as usize].post_norms);
    let name = |id: TensorId| local_name(id, post_norms(id), prefix);
    let places = places(&path, &spec, name, |name| weights.place(name))?;
    let used: HashSet<String> = spec.tensors().into_iter().map(name).collect();
    let listing = weights.listing(|name| used.contains(name));
    // Old checkpoints store the rotary frequencies; some store a tied head.
    let ignored = ["rotary_emb.inv_freq", "lm_head.weight"];
    refuse_extra(&path, &listing, |name| {
        (name.starts_with(prefix) || name.contains("lm_head."))
            && !ignored.iter().any(|end| name.ends_with(end))
    })?;
    let files: Vec<_> =
        weights.sources.iter().map(|s| &**s).zip(weights.header_lens.iter().copied()).collect();
    let fingerprint = fingerprint(&path, &config_bytes, &files, extents(places.values()))?;
    let metadata = metadata(&config);
    let sources = weights.sources;
    let path = folder.to_path_buf();
    Ok(Opened { path, spec, sources, places, listing, metadata, fingerprint })
}

/// The prefix under which the embedding is found; the usual one where there is no embedding.
fn prefix(weights: &Weights) -> &'static str {
    let has = |prefix: &&str| weights.tensors.contains_key(&format!("{prefix}embed_tokens.weight"));
    PREFIXES.into_iter().find(has).unwrap_or(PREFIXES[0])
}

fn local_name(id: TensorId, post_norms: bool, prefix: &str) -> String {
    let name = id.hf_name(post_norms);
    match name.strip_prefix("model.") {
        Some(rest) => format!("{prefix}{rest}"),
        None if prefix == "language_model.model." => format!("language_model.{name}"),
        None => name,
    }
}

/// The folder's name; in a Hugging Face cache, the repository's.
fn model_name(folder: &Path) -> String {
    let names: Vec<String> =
        folder.components().map(|c| c.as_os_str().to_string_lossy().into_owned()).collect();
    match names.as_slice() {
        [.., repo, snapshots, _] if snapshots == "snapshots" && repo.starts_with("models--") => {
            repo["models--".len()..].replace("--", "/")
        }
        [.., last] => last.clone(),
        [] => "unnamed".into(),
    }
}

/// Keys of config.json with short values.
fn metadata(config: &Value) -> Vec<(String, String)> {
    let object = config.as_object().into_iter().flatten();
    let show = |value: &Value| {
        let text = value.to_string();
        let cut: String = text.chars().take(80).collect();
        if cut.len() < text.len() { cut + "..." } else { cut }
    };
    object.map(|(key, value)| (key.clone(), show(value))).collect()
}
