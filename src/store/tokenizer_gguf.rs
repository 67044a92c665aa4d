//! The vocabulary of a GGUF header.

use super::error::StoreError;
use super::gguf::{GgufHeader, Value};
use crate::tokenizer::GgufVocab;

/// The `tokenizer.ggml.*` keys, with errors that name the file.
struct Keys<'a> {
    path: &'a str,
    header: &'a GgufHeader,
}

impl<'a> Keys<'a> {
    /// The value of `key` as `read` sees it; `None` where it is absent.
    fn get<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, StoreError> {
        let Some(value) = self.header.get(&format!("tokenizer.ggml.{key}")) else {
            return Ok(None);
        };
        read(value).map(Some).ok_or_else(|| {
            let at = format!("key `tokenizer.ggml.{key}`");
            StoreError::malformed(self.path, at, expected, value.display())
        })
    }

    fn needed<T>(&self, key: &str, value: Option<T>) -> Result<T, StoreError> {
        let path = self.path.to_string();
        let key = format!("tokenizer.ggml.{key}");
        value.ok_or(StoreError::MissingKey { path, key })
    }

    fn text(&self, key: &str) -> Result<Option<String>, StoreError> {
        self.get(key, "a text", |value| value.as_str().map(str::to_string))
    }

    fn texts(&self, key: &str) -> Result<Option<Vec<String>>, StoreError> {
        self.get(key, "an array of texts", |value| value.texts().map(<[_]>::to_vec))
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, StoreError> {
        self.get(key, "a flag", Value::as_bool)
    }

    /// A token id; some converters write -1 for "none".
    fn id(&self, key: &str) -> Result<Option<u32>, StoreError> {
        let read = |value: &Value| match (value.as_u64(), value.as_f64()) {
            (Some(id), _) => u32::try_from(id).ok().map(Some),
            (None, Some(-1.0)) => Some(None),
            _ => None,
        };
        Ok(self.get(key, "a token id", read)?.flatten())
    }
}

/// Reads the `tokenizer.*` keys; `path` names the file in errors.
pub(super) fn gguf_vocab(path: &str, header: &GgufHeader) -> Result<GgufVocab, StoreError> {
    let keys = Keys { path, header };
    let tokens = keys.needed("tokens", keys.texts("tokens")?)?;
    let scores = keys.get("scores", "an array of floats", Value::floats)?.unwrap_or_default();
    let types = keys.get("token_type", "an array of integers", Value::integers)?;
    let types = types.unwrap_or_default();
    for (key, len) in [("scores", scores.len()), ("token_type", types.len())] {
        if len != 0 && len != tokens.len() {
            let at = format!("length of key `tokenizer.ggml.{key}`");
            let expected = format!("{}, as many as tokens", tokens.len());
            return Err(StoreError::malformed(path, at, expected, len));
        }
    }
    let template = header.get("tokenizer.chat_template").and_then(Value::as_str);
    Ok(GgufVocab {
        model: keys.needed("model", keys.text("model")?)?,
        pre: keys.text("pre")?,
        tokens,
        scores: scores.into_iter().map(|score| score as f32).collect(),
        token_types: types.into_iter().map(|kind| kind as i32).collect(),
        merges: keys.texts("merges")?.unwrap_or_default(),
        bos: keys.id("bos_token_id")?,
        eos: keys.id("eos_token_id")?,
        eot: keys.id("eot_token_id")?,
        unknown: keys.id("unknown_token_id")?,
        add_bos: keys.flag("add_bos_token")?,
        add_eos: keys.flag("add_eos_token")?,
        add_space_prefix: keys.flag("add_space_prefix")?,
        chat_template: template.map(str::to_string),
    })
}
