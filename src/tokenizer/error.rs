//! What can go wrong between text and tokens.

/// Errors of this room. Messages name the key or file, what was found, and what would do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A GGUF tokenizer family that is not implemented.
    #[error(
        "tokenizer.ggml.model is `{model}`, but only `gpt2` and `llama` are supported; \
         use a Hugging Face folder of this model, or another model"
    )]
    UnknownModel {
        /// The value found.
        model: String,
    },
    /// A GGUF pre-tokenizer that is not implemented.
    #[error(
        "tokenizer.ggml.pre is `{pre}`, which is not one of the supported pre-tokenizers \
         ({supported}); use a Hugging Face folder of this model, or a GGUF converted anew"
    )]
    UnknownPre {
        /// The value found.
        pre: String,
        /// Names that are known, separated by commas.
        supported: String,
    },
    /// A value in the model's files that contradicts another or is out of bounds.
    #[error("{field}: {problem}; the model file is damaged or was converted badly, fetch it again")]
    BadVocabulary {
        /// Key of the header or path inside the JSON file.
        field: String,
        /// Both sides of the mismatch.
        problem: String,
    },
    /// `tokenizer.json` is not usable.
    #[error("tokenizer.json: {problem}")]
    HuggingFace {
        /// The library's words, or ours.
        problem: String,
    },
    /// The model has no chat template.
    #[error(
        "this model has no chat template, so it cannot take `messages`; \
         send a `prompt`, or use an instruction-tuned model"
    )]
    NoChatTemplate,
    /// The chat template does not compile, or refuses these messages.
    #[error("chat template: {problem}")]
    ChatTemplate {
        /// What the template, or its interpreter, says.
        problem: String,
    },
    /// The text could not be encoded.
    #[error("encoding text of {bytes} bytes: {problem}")]
    Encode {
        /// Length of the text.
        bytes: usize,
        /// The library's words.
        problem: String,
    },
}

impl TokenizerError {
    pub(super) fn vocabulary(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::BadVocabulary { field: field.into(), problem: problem.into() }
    }

    pub(super) fn template(problem: impl Into<String>) -> Self {
        Self::ChatTemplate { problem: problem.into() }
    }
}
