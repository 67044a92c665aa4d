//! The vocabulary of a GGUF header.

use super::error::StoreError;
use super::gguf::{GgufHeader, Value};
use crate::tokenizer::GgufVocab;

/// Reads the `tokenizer.*` keys; `path` names the file in errors.
pub(super) fn gguf_vocab(path: &str, header: &GgufHeader) -> Result<GgufVocab, StoreError> {
    let get = |key: &str| header.get(&format!("tokenizer.ggml.{key}"));
    let wrong = |key: &str, expected: &str, value: &Value| {
        let at = format!("key `tokenizer.ggml.{key}`");
        StoreError::malformed(path, at, expected, value.display())
    };
    let missing = |key: &str| StoreError::MissingKey {
        path: path.to_string(),
        key: format!("tokenizer.ggml.{key}"),
    };
    let text = |key: &str| match get(key) {
        None => Ok(None),
        Some(value) => match value.as_str() {
            Some(text) => Ok(Some(text.to_string())),
            None => Err(wrong(key, "a text", value)),
        },
    };
    let texts = |key: &str| match get(key) {
        None => Ok(None),
        Some(value) => match value.texts() {
            Some(texts) => Ok(Some(texts.to_vec())),
            None => Err(wrong(key, "an array of texts", value)),
        },
    };
    let id = |key: &str| match get(key) {
        None => Ok(None),
        Some(value) => match (value.as_u64(), value.as_f64()) {
            (Some(id), _) if id <= u64::from(u32::MAX) => Ok(Some(id as u32)),
            // Some converters write -1 for "none".
            (None, Some(-1.0)) => Ok(None),
            _ => Err(wrong(key, "a token id", value)),
        },
    };
    let flag = |key: &str| match get(key) {
        None => Ok(None),
        Some(value) => value.as_bool().map(Some).ok_or_else(|| wrong(key, "a flag", value)),
    };
    let tokens = texts("tokens")?.ok_or_else(|| missing("tokens"))?;
    let scores = match get("scores") {
        None => Vec::new(),
        Some(value) => {
            value.floats().ok_or_else(|| wrong("scores", "an array of floats", value))?
        }
    };
    let token_types = match get("token_type") {
        None => Vec::new(),
        Some(value) => {
            value.integers().ok_or_else(|| wrong("token_type", "an array of integers", value))?
        }
    };
    for (key, len) in [("scores", scores.len()), ("token_type", token_types.len())] {
        if len != 0 && len != tokens.len() {
            let at = format!("length of key `tokenizer.ggml.{key}`");
            let expected = format!("{}, as many as tokens", tokens.len());
            return Err(StoreError::malformed(path, at, expected, len));
        }
    }
    Ok(GgufVocab {
        model: text("model")?.ok_or_else(|| missing("model"))?,
        pre: text("pre")?,
        tokens,
        scores: scores.into_iter().map(|score| score as f32).collect(),
        token_types: token_types.into_iter().map(|kind| kind as i32).collect(),
        merges: texts("merges")?.unwrap_or_default(),
        bos: id("bos_token_id")?,
        eos: id("eos_token_id")?,
        eot: id("eot_token_id")?,
        unknown: id("unknown_token_id")?,
        add_bos: flag("add_bos_token")?,
        add_eos: flag("add_eos_token")?,
        add_space_prefix: flag("add_space_prefix")?,
        chat_template: header
            .get("tokenizer.chat_template")
            .and_then(Value::as_str)
            .map(str::to_string),
    })
}
