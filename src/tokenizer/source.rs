//! What a model's files say about its tokenizer.

/// Where a tokenizer comes from.
#[derive(Clone, Debug)]
pub enum TokenizerSource {
    /// `tokenizer.ggml.*` keys of a GGUF header.
    Gguf(Box<GgufVocab>),
    /// Files of a Hugging Face folder.
    HuggingFace {
        /// `tokenizer.json`.
        tokenizer_json: Vec<u8>,
        /// `tokenizer_config.json`.
        config: Option<serde_json::Value>,
        /// `eos_token_id` of generation_config.json (else config.json), one or several.
        eos_ids: Vec<u32>,
        /// `chat_template.jinja`, if there is one beside the config.
        chat_template: Option<String>,
    },
}

/// The vocabulary of a GGUF header, values as stored.
#[derive(Clone, Debug, Default)]
pub struct GgufVocab {
    /// `tokenizer.ggml.model`: `gpt2` (byte-level BPE) or `llama` (sentencepiece style).
    pub model: String,
    /// `tokenizer.ggml.pre`: name of the pre-tokenizer.
    pub pre: Option<String>,
    /// Token texts; the index is the id.
    pub tokens: Vec<String>,
    /// Scores (sentencepiece).
    pub scores: Vec<f32>,
    /// Types: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub token_types: Vec<i32>,
    /// Merges, `left right` (BPE).
    pub merges: Vec<String>,
    /// Beginning of sequence.
    pub bos: Option<u32>,
    /// End of sequence.
    pub eos: Option<u32>,
    /// End of turn.
    pub eot: Option<u32>,
    /// Unknown token.
    pub unknown: Option<u32>,
    /// Whether to put BOS before a prompt.
    pub add_bos: Option<bool>,
    /// Whether to put EOS after a prompt.
    pub add_eos: Option<bool>,
    /// Whether a space is put before the text (sentencepiece).
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
}
