//! The table of token bytes and what else is known about each id.

use super::error::TokenizerError;

/// Most tokens a vocabulary may have; the largest published ones have about 300,000.
pub(super) const MAX_TOKENS: usize = 1 << 22;
/// Most bytes one token may have; published ones stay below 1,000.
pub(super) const MAX_TOKEN_BYTES: usize = 1 << 14;

/// Token texts that end a generation wherever they are control tokens: those of llama.cpp, which
/// has the last group because code models begin the next file where they should stop.
const END_TEXTS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "<|END_OF_TURN_TOKEN|>",
    "<eos>",
    "</s>",
    "<|fim_pad|>",
    "<fim_pad>",
    "<fim-pad>",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<reponame>",
    "<|file_sep|>",
];

/// End texts that also mean something else (`</s>` is HTML), so a file must say that they are
/// control tokens.
const AMBIGUOUS_END_TEXTS: &[&str] = &["</s>", "<eos>"];

/// Whether a token of this text ends a turn or a document in the models that have it.
pub(super) fn is_end_text(text: &str) -> bool {
    END_TEXTS.contains(&text)
}

/// Whether a token of this text is a control token even if the file says otherwise.
pub(super) fn is_certain_end_text(text: &str) -> bool {
    is_end_text(text) && !AMBIGUOUS_END_TEXTS.contains(&text)
}

/// What kind of token an id is; the numbers are those of `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl Kind {
    pub(super) fn from_gguf(value: i32) -> Self {
        match value {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }

    /// Written in a text by its name, it would steer the model: data must not produce it.
    pub(super) fn is_guarded(self) -> bool {
        matches!(self, Self::Control | Self::Unknown)
    }

    /// Recognised in text as a whole, before any merging.
    pub(super) fn is_special(self) -> bool {
        matches!(self, Self::Control | Self::Unknown | Self::UserDefined)
    }

    /// Contributes no text when decoded.
    pub(super) fn is_silent(self) -> bool {
        matches!(self, Self::Control | Self::Unknown | Self::Unused)
    }
}

/// Bytes of every token, end to end, and the ids with a role.
#[derive(Debug, Default)]
pub(super) struct Vocab {
    bytes: Vec<u8>,
    ends_at: Vec<u32>,
    silent: Vec<bool>,
    end_ids: Vec<u32>,
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
}

impl Vocab {
    /// Appends the next id.
    ///
    /// # Errors
    /// The token, or all of them together, are too long.
    pub(super) fn push(&mut self, bytes: &[u8], silent: bool) -> Result<(), TokenizerError> {
        let id = self.len();
        if bytes.len() > MAX_TOKEN_BYTES {
            let problem = format!("{} bytes long, the limit is {MAX_TOKEN_BYTES}", bytes.len());
            return Err(TokenizerError::vocabulary(format!("token {id}"), problem));
        }
        let end = u32::try_from(self.bytes.len() + bytes.len()).map_err(|_| {
            TokenizerError::vocabulary("tokens", "more than 4 GiB of text in all".to_owned())
        })?;
        self.bytes.extend_from_slice(bytes);
        self.ends_at.push(end);
        self.silent.push(silent);
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.ends_at.len()
    }

    /// Bytes of the token whether or not it is silent; empty for an id out of range.
    pub(super) fn raw(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends_at.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends_at[id - 1] };
        &self.bytes[start as usize..end as usize]
    }

    /// What the token adds to a text; empty for silent ids and those out of range.
    pub(super) fn piece(&self, id: u32) -> &[u8] {
        if self.silent.get(id as usize).copied().unwrap_or(true) { &[] } else { self.raw(id) }
    }

    /// Notes that a token ends generation.
    pub(super) fn add_end(&mut self, id: u32) {
        if let Err(at) = self.end_ids.binary_search(&id) {
            self.end_ids.insert(at, id);
        }
    }

    /// In models with both `<|return|>` and `<|call|>` (gpt-oss), `<|end|>` only ends a part of
    /// the answer, so generation goes on.
    pub(super) fn settle_ends(&mut self) {
        let has = |text: &str| self.end_ids.iter().any(|&id| self.raw(id) == text.as_bytes());
        if has("<|return|>") && has("<|call|>") {
            let keep = |id: &u32| self.raw(*id) != b"<|end|>" || Some(*id) == self.eos;
            self.end_ids = self.end_ids.iter().copied().filter(keep).collect();
        }
    }

    pub(super) fn is_end(&self, id: u32) -> bool {
        self.end_ids.binary_search(&id).is_ok()
    }

    pub(super) fn end_ids(&self) -> &[u32] {
        &self.end_ids
    }

    /// An id from a header, if it names a token.
    ///
    /// # Errors
    /// The id is out of range.
    pub(super) fn check_id(&self, field: &str, id: Option<u32>) -> Result<(), TokenizerError> {
        match id {
            Some(id) if id as usize >= self.len() => Err(TokenizerError::vocabulary(
                field,
                format!("token id {id}, but there are {} tokens", self.len()),
            )),
            _ => Ok(()),
        }
    }
}
