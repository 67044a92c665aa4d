//! What goes into the engine and what comes out.

use crate::sample::SamplingParams;

/// One sequence to generate. `n > 1` choices are `n` requests that differ in `choice`.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The caller's name for it, returned with the completion.
    pub id: u64,
    /// Token ids of the prompt, special tokens included; not empty.
    pub prompt: Vec<u32>,
    /// Sampling parameters.
    pub sampling: SamplingParams,
    /// Index among the choices of one prompt; part of the noise key.
    pub choice: u32,
    /// Most tokens to generate; prompt and output together must fit the context.
    pub max_tokens: usize,
    /// Generation ends before the first of these in the text.
    pub stop: Vec<String>,
    /// Go on past end-of-sequence tokens.
    pub ignore_eos: bool,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// An end token or a stop string.
    Stop,
    /// `max_tokens` or the end of the context.
    Length,
    /// No logit was a number: the model's file is damaged, or what it computes is beyond its cache's format.
    Undefined,
}

/// A finished sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The request's id.
    pub id: u64,
    /// The request's choice index.
    pub choice: u32,
    /// Generated ids; an end token that ended the sequence is not among them.
    pub tokens: Vec<u32>,
    /// Their text, cut before a stop string.
    pub text: String,
    /// Why it ended.
    pub finish: FinishReason,
}
