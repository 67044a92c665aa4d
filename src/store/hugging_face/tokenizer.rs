//! The tokenizer's files.

use super::weights::{LARGE_MAX, SMALL_MAX, read_file, read_json};
use crate::store::error::StoreError;
use crate::tokenizer::TokenizerSource;
use serde_json::Value;
use std::path::Path;

/// Collects what the folder says about its tokenizer.
pub(in crate::store) fn tokenizer(folder: &Path) -> Result<TokenizerSource, StoreError> {
    let tokenizer_json = read_file(&folder.join("tokenizer.json"), LARGE_MAX)?;
    let tokenizer_json = tokenizer_json.ok_or_else(|| StoreError::MissingFile {
        path: folder.display().to_string(),
        file: "tokenizer.json".into(),
        remedy: "save the model's fast tokenizer beside its weights",
    })?;
    let mut eos_ids = Vec::new();
    for file in ["generation_config.json", "config.json"] {
        if let Some(config) = read_json(&folder.join(file), SMALL_MAX)? {
            eos_ids = eos(&config);
            if eos_ids.is_empty() {
                eos_ids = config.get("text_config").map(eos).unwrap_or_default();
            }
        }
        if !eos_ids.is_empty() {
            break;
        }
    }
    let template = read_file(&folder.join("chat_template.jinja"), SMALL_MAX)?;
    let chat_template = template.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let config = read_json(&folder.join("tokenizer_config.json"), SMALL_MAX)?;
    Ok(TokenizerSource::HuggingFace { tokenizer_json, config, eos_ids, chat_template })
}

/// `eos_token_id`: one id or a list.
fn eos(config: &Value) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match config.get("eos_token_id") {
        Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
        Some(value) => id(value).into_iter().collect(),
        None => Vec::new(),
    }
}
