//! What a line asks for, and what is wrong with it.

use crate::sample::SamplingParams;

/// What a request gets where its line is silent.
#[derive(Clone, Debug, PartialEq)]
pub struct Defaults {
    /// Sampling; its seed is the job's, from which each request's is derived.
    pub sampling: SamplingParams,
    /// Most tokens to generate; `None`: 16 for completions, the rest of the context for chats.
    pub max_tokens: Option<usize>,
    /// Stop strings.
    pub stop: Vec<String>,
    /// Go on past end-of-sequence tokens.
    pub ignore_eos: bool,
}

impl Default for Defaults {
    fn default() -> Defaults {
        Defaults {
            // As at OpenAI.
            sampling: SamplingParams { temperature: 1.0, ..SamplingParams::default() },
            max_tokens: None,
            stop: Vec::new(),
            ignore_eos: false,
        }
    }
}

/// Which shape the answer takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completions,
}

/// One message of a chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Its text.
    pub content: String,
}

/// What comes before the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Text in which control tokens are recognised.
    Text(String),
    /// Token ids, taken as they are.
    Tokens(Vec<u32>),
    /// Messages for the chat template.
    Chat(Vec<Message>),
}

/// A valid line.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Line number in the input, from 1.
    pub line: u64,
    /// The user's name for it, or `line-N`.
    pub custom_id: String,
    /// Shape of the answer.
    pub endpoint: Endpoint,
    /// At least one; each gets `n` choices.
    pub prompts: Vec<Prompt>,
    /// Sampling, seed included.
    pub sampling: SamplingParams,
    /// Choices per prompt, at least one.
    pub n: u32,
    /// Most tokens per choice; `None` is the rest of the context.
    pub max_tokens: Option<usize>,
    /// Stop strings.
    pub stop: Vec<String>,
    /// Go on past end-of-sequence tokens.
    pub ignore_eos: bool,
    /// Whether choices carry their token ids.
    pub return_token_ids: bool,
}

/// Why a line gets no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineError {
    /// Line number in the input, from 1.
    pub line: u64,
    /// The line's id, where it has one of its own.
    pub custom_id: Option<String>,
    /// A word for programs: `invalid_json`, `invalid_value`, `unsupported_field`, ...
    pub code: &'static str,
    /// The field at fault.
    pub param: Option<String>,
    /// For people; names line, field, value and what is allowed.
    pub message: String,
}
