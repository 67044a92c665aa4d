//! The tokenizer of a model.

use std::ops::Range;

use super::bpe::BpeEncoder;
use super::chat::{ChatMessage, Masked};
use super::decode::Decoder;
use super::error::TokenizerError;
use super::huggingface::HuggingFaceEncoder;
use super::source::TokenizerSource;
use super::special::{Fragment, SpecialIndex};
use super::spm::SpmEncoder;
use super::template::ChatTemplate;
use super::vocab::Vocab;
use super::{gguf, huggingface};

/// How control tokens written in a text are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// As control tokens; BOS and EOS are added where the model wants them. For prompts.
    Parse,
    /// As the characters they consist of; nothing is added. For data.
    Plain,
}

/// Text without special tokens to ids.
#[derive(Debug)]
pub(super) enum Encoder {
    Bpe(Box<BpeEncoder>),
    Spm(SpmEncoder),
    HuggingFace(Box<HuggingFaceEncoder>),
}

/// Text to token ids and back, as one model wants it.
#[derive(Debug)]
pub struct Tokenizer {
    pub(super) encoder: Encoder,
    pub(super) vocab: Vocab,
    pub(super) specials: SpecialIndex,
    /// Put before a prompt (BOS) and after it (EOS).
    pub(super) prefix: Vec<u32>,
    pub(super) suffix: Vec<u32>,
    /// Encoding puts a space before the text.
    pub(super) space_prefix: bool,
    /// None: the model has none. Err: it does not compile.
    pub(super) template: Option<Result<ChatTemplate, String>>,
}

impl Tokenizer {
    /// Builds the tokenizer that a model's files describe.
    ///
    /// # Errors
    /// The kind of tokenizer is not supported, or the files contradict themselves.
    pub fn new(source: &TokenizerSource) -> Result<Self, TokenizerError> {
        match source {
            TokenizerSource::Gguf(vocab) => gguf::build(vocab),
            TokenizerSource::HuggingFace { tokenizer_json, config, eos_ids, chat_template } => {
                let template = chat_template.as_deref();
                huggingface::build(tokenizer_json, config.as_ref(), eos_ids, template)
            }
        }
    }

    /// The ids of a text.
    ///
    /// # Errors
    /// The tokenizer library fails on the text.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        if special == Special::Plain {
            self.encode_parts(text, |_, guarded| !guarded, &mut ids)?;
            return Ok(ids);
        }
        match &self.encoder {
            Encoder::HuggingFace(encoder) => encoder.encode_parsed(text, &mut ids)?,
            _ => self.encode_parts(text, |_, _| true, &mut ids)?,
        }
        self.add_prefix(&mut ids);
        if !ids.ends_with(&self.suffix) {
            ids.extend_from_slice(&self.suffix);
        }
        Ok(ids)
    }

    /// The ids of a conversation up to where the assistant speaks. Text inside messages never
    /// becomes a control token; without such text the ids are those of the rendered template.
    ///
    /// # Errors
    /// The model has no chat template, or the template refuses the messages.
    pub fn encode_chat(&self, messages: &[ChatMessage]) -> Result<Vec<u32>, TokenizerError> {
        let template = self.chat_template()?;
        let masked = Masked::new(messages, &self.specials, template.source())?;
        let rendered = self.render(template, &masked.messages)?;
        let (text, hidden) = masked.restore(&rendered);
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        match &self.encoder {
            Encoder::HuggingFace(encoder) if hidden.is_empty() => {
                encoder.encode_parsed(&text, &mut ids)?;
            }
            _ => {
                let free = |range, guarded: bool| !guarded || !touches(&hidden, &range);
                self.encode_parts(&text, free, &mut ids)?;
            }
        }
        self.add_prefix(&mut ids);
        Ok(ids)
    }

    /// The text of a conversation as the chat template writes it, nothing guarded. For display.
    ///
    /// # Errors
    /// The model has no chat template, or the template refuses the messages.
    pub fn render_chat(&self, messages: &[ChatMessage]) -> Result<String, TokenizerError> {
        self.render(self.chat_template()?, messages)
    }

    fn chat_template(&self) -> Result<&ChatTemplate, TokenizerError> {
        match &self.template {
            Some(Ok(template)) => Ok(template),
            Some(Err(problem)) => Err(TokenizerError::template(problem)),
            None => Err(TokenizerError::NoChatTemplate),
        }
    }

    fn render(
        &self,
        template: &ChatTemplate,
        messages: &[ChatMessage],
    ) -> Result<String, TokenizerError> {
        let text = |id: Option<u32>| id.map_or_else(String::new, |id| self.token_text(id));
        template.render(messages, &text(self.vocab.bos), &text(self.vocab.eos))
    }

    /// Cuts a text at the special tokens that are allowed and encodes what is between.
    fn encode_parts(
        &self,
        text: &str,
        allowed: impl Fn(Range<usize>, bool) -> bool,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        // As llama.cpp has it: at the start, and after every special token.
        let mut space_before = self.space_prefix;
        for fragment in self.specials.split(text, allowed) {
            match fragment {
                Fragment::Token(id) => {
                    ids.push(id);
                    space_before = self.space_prefix;
                }
                Fragment::Text(text) => {
                    match &self.encoder {
                        Encoder::Bpe(encoder) => encoder.encode(text, ids)?,
                        Encoder::Spm(encoder) => encoder.encode(text, space_before, ids),
                        Encoder::HuggingFace(encoder) => encoder.encode_plain(text, ids)?,
                    }
                    space_before = false;
                }
            }
        }
        Ok(())
    }

    /// A template that writes BOS itself must not get a second one.
    fn add_prefix(&self, ids: &mut Vec<u32>) {
        if !ids.starts_with(&self.prefix) {
            ids.splice(0..0, self.prefix.iter().copied());
        }
    }

    /// Whether a generation ends at this token.
    pub fn is_end(&self, id: u32) -> bool {
        self.vocab.is_end(id)
    }

    /// All tokens that end a generation, in order.
    pub fn end_ids(&self) -> &[u32] {
        self.vocab.end_ids()
    }

    /// The token that begins a sequence, whether or not prompts get one.
    pub fn bos(&self) -> Option<u32> {
        self.vocab.bos
    }

    /// The token that ends a sequence.
    pub fn eos(&self) -> Option<u32> {
        self.vocab.eos
    }

    /// Number of ids. The model's output may have more rows; those have no text.
    pub fn vocab_len(&self) -> usize {
        self.vocab.len()
    }

    /// Whether the model can take conversations.
    pub fn has_chat_template(&self) -> bool {
        self.template.is_some()
    }

    /// The bytes a token adds to a text; none for control tokens and ids out of range.
    pub fn piece(&self, id: u32) -> &[u8] {
        self.vocab.piece(id)
    }

    /// The text of a token for display, control tokens by name; bytes that are no text as U+FFFD.
    pub fn token_text(&self, id: u32) -> String {
        String::from_utf8_lossy(self.vocab.raw(id)).into_owned()
    }

    /// The text of a sequence; control tokens have none, bytes that are no text become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut decoder = self.decoder();
        let mut text: String = ids.iter().map(|&id| decoder.push(id)).collect();
        text.push_str(&decoder.finish());
        text
    }

    /// Starts decoding a sequence id by id.
    pub fn decoder(&self) -> Decoder<'_> {
        Decoder::new(self)
    }

    pub(super) fn has_space_prefix(&self) -> bool {
        self.space_prefix
    }
}

/// Whether a range overlaps one of a sorted list.
fn touches(ranges: &[Range<usize>], range: &Range<usize>) -> bool {
    let first = ranges.partition_point(|other| other.end <= range.start);
    ranges.get(first).is_some_and(|other| other.start < range.end)
}
