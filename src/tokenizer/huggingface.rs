//! Tokenizers from a Hugging Face folder: `tokenizer.json` run by the library that defines it.

use std::collections::HashMap;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::bpe;
use super::codec::{Encoder, Tokenizer};
use super::error::TokenizerError;
use super::gguf::{parse_byte, spm_bytes};
use super::special::SpecialIndex;
use super::spm::SPACE;
use super::template::ChatTemplate;
use super::vocab::{MAX_TOKENS, Vocab, is_certain_end_text, is_end_text};

type Library = tokenizers::Tokenizer;

/// The parts of `tokenizer.json` that are looked at besides the library.
#[derive(Deserialize)]
struct Json<'a> {
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(borrow)]
    model: Model<'a>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Model<'a> {
    #[serde(borrow, default)]
    vocab: Option<&'a RawValue>,
    #[serde(default)]
    merges: Option<Vec<Merge>>,
    #[serde(default)]
    dropout: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

/// What token texts mean as bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    /// Characters of the byte alphabet.
    ByteLevel,
    /// U+2581 is a space, `<0xAB>` a byte.
    Sentencepiece,
}

/// The library, and a second copy that does not recognise special tokens.
#[derive(Debug)]
pub(super) struct HuggingFaceEncoder {
    library: Library,
    plain: OnceLock<Box<Library>>,
}

impl HuggingFaceEncoder {
    /// Appends the tokens of a text, special tokens recognised, none added.
    pub(super) fn encode_parsed(
        &self,
        text: &str,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        encode(&self.library, text, false, ids)
    }

    /// Appends the tokens of a text, special tokens taken as characters.
    pub(super) fn encode_plain(
        &self,
        text: &str,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        let plain = self.plain.get_or_init(|| {
            let mut library = Box::new(self.library.clone());
            library.set_encode_special_tokens(true);
            library
        });
        encode(plain, text, false, ids)
    }
}

fn encode(
    library: &Library,
    text: &str,
    add: bool,
    ids: &mut Vec<u32>,
) -> Result<(), TokenizerError> {
    let encoding = library.encode_fast(text, add).map_err(|error| TokenizerError::Encode {
        bytes: text.len(),
        problem: error.to_string(),
    })?;
    ids.extend_from_slice(encoding.get_ids());
    Ok(())
}

/// # Errors
/// `tokenizer.json` is not understood, or contradicts itself.
pub(super) fn build(
    tokenizer_json: &[u8],
    config: Option<&Value>,
    eos_ids: &[u32],
    chat_template: Option<&str>,
) -> Result<Tokenizer, TokenizerError> {
    let bad = |problem: String| TokenizerError::HuggingFace { problem };
    let json: Json = serde_json::from_slice(tokenizer_json).map_err(|e| bad(e.to_string()))?;
    check_model(&json.model)?;
    let mut library = Library::from_bytes(tokenizer_json).map_err(|e| bad(e.to_string()))?;
    // A stored truncation or padding is for training; prompts are whole.
    library.with_truncation(None).map_err(|e| bad(e.to_string()))?;
    library.with_padding(None);
    let mut vocab = build_vocab(&library, &json)?;
    let named = |key: &str| config_token(config, key).and_then(|text| library.token_to_id(&text));
    vocab.bos = named("bos_token");
    vocab.eos = named("eos_token").or_else(|| eos_ids.first().copied());
    for id in eos_ids.iter().copied().chain(vocab.eos) {
        vocab.check_id("eos_token_id", Some(id))?;
        vocab.add_end(id);
    }
    for token in json.added_tokens.iter().filter(|token| is_end(token)) {
        vocab.add_end(token.id);
    }
    vocab.settle_ends();
    let guarded = json.added_tokens.iter().filter(|token| is_control(token));
    let specials =
        SpecialIndex::new(guarded.map(|token| (token.content.as_bytes(), token.id, true)));
    let (prefix, suffix) = added_around(&library)?;
    let mut probe = Vec::new();
    encode(&library, "a", false, &mut probe)?;
    let space_prefix = probe.first().is_some_and(|&id| vocab.piece(id).starts_with(b" "));
    let template = chat_template.map(str::to_owned).or_else(|| config_template(config));
    Ok(Tokenizer {
        encoder: Encoder::HuggingFace(Box::new(HuggingFaceEncoder {
            library,
            plain: OnceLock::new(),
        })),
        vocab,
        specials,
        prefix,
        suffix,
        space_prefix,
        template: template.as_deref().map(ChatTemplate::new),
    })
}

/// Tokens that end a turn are control tokens even where the file does not say so.
fn is_control(token: &AddedToken) -> bool {
    token.special || is_certain_end_text(&token.content)
}

fn is_end(token: &AddedToken) -> bool {
    is_control(token) && is_end_text(&token.content)
}

/// What the library would choke on.
fn check_model(model: &Model) -> Result<(), TokenizerError> {
    if let Some(dropout) = model.dropout.filter(|dropout| *dropout != 0.0) {
        let problem = format!("{dropout}, which makes tokens random; set it to null");
        return Err(TokenizerError::vocabulary("tokenizer.json: model.dropout", problem));
    }
    let (Some(merges), Some(vocab)) = (&model.merges, model.vocab) else { return Ok(()) };
    let vocab: HashMap<String, u32> = serde_json::from_str(vocab.get())
        .map_err(|error| TokenizerError::vocabulary("model.vocab", error.to_string()))?;
    let longest = vocab.keys().map(|text| text.len()).max().unwrap_or(0);
    for (rank, merge) in merges.iter().enumerate() {
        let length = match merge {
            Merge::Pair(left, right) => left.len() + right.len(),
            Merge::Line(line) => line.len().saturating_sub(1),
        };
        // The library indexes a buffer of this length with what a merge makes.
        if length > longest {
            let problem = format!("makes {length} bytes, but no token is longer than {longest}");
            let field = format!("tokenizer.json: model.merges[{rank}]");
            return Err(TokenizerError::vocabulary(field, problem));
        }
    }
    Ok(())
}

fn build_vocab(library: &Library, json: &Json) -> Result<Vocab, TokenizerError> {
    let style = style(&json.decoder).ok_or_else(|| TokenizerError::HuggingFace {
        problem: "the decoder is neither ByteLevel nor sentencepiece-like (ByteFallback or \
                  Metaspace); this kind of tokenizer is not supported"
            .to_owned(),
    })?;
    let texts = library.get_vocab(true);
    let length = texts.values().max().map_or(0, |id| *id as usize + 1);
    if length == 0 || length > MAX_TOKENS {
        let problem = format!("ids go up to {length}, expected 1 to {MAX_TOKENS}");
        return Err(TokenizerError::vocabulary("tokenizer.json: model.vocab", problem));
    }
    let mut table: Vec<(&str, bool)> = vec![("", true); length];
    for (text, id) in &texts {
        table[*id as usize] = (text, false);
    }
    let mut added = vec![false; length];
    for token in &json.added_tokens {
        if let Some(entry) = table.get_mut(token.id as usize) {
            *entry = (&token.content, is_control(token));
            added[token.id as usize] = true;
        }
    }
    let mut vocab = Vocab::default();
    let mut bytes = Vec::new();
    for ((text, silent), added) in table.into_iter().zip(added) {
        bytes.clear();
        match style {
            _ if silent => bytes.extend_from_slice(text.as_bytes()),
            Style::ByteLevel if added => bytes.extend_from_slice(text.as_bytes()),
            Style::ByteLevel => bpe::token_bytes(text, &mut bytes),
            Style::Sentencepiece => match parse_byte(text) {
                Some(byte) => bytes.push(byte),
                None => spm_bytes(text, &mut bytes),
            },
        }
        vocab.push(&bytes, silent)?;
    }
    Ok(vocab)
}

/// Looks through a decoder, which may be a sequence of several.
fn style(decoder: &Value) -> Option<Style> {
    let kind = decoder.get("type").and_then(Value::as_str).unwrap_or("");
    match kind {
        "ByteLevel" => Some(Style::ByteLevel),
        "ByteFallback" | "Metaspace" => Some(Style::Sentencepiece),
        "Replace" => {
            let pattern = decoder.get("pattern").and_then(|p| p.get("String"));
            let is_space = pattern.and_then(Value::as_str) == Some(SPACE.to_string().as_str());
            is_space.then_some(Style::Sentencepiece)
        }
        "Sequence" => decoder.get("decoders")?.as_array()?.iter().find_map(style),
        _ => None,
    }
}

/// What the post-processor puts before and after a text, seen on an example.
fn added_around(library: &Library) -> Result<(Vec<u32>, Vec<u32>), TokenizerError> {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    encode(library, "a", true, &mut with)?;
    encode(library, "a", false, &mut without)?;
    let at = with.windows(without.len().max(1)).position(|part| part == without);
    Ok(at.map_or_else(Default::default, |at| {
        (with[..at].to_vec(), with[at + without.len()..].to_vec())
    }))
}

/// A token of `tokenizer_config.json`: its text, or an object with it.
fn config_token(config: Option<&Value>, key: &str) -> Option<String> {
    let value = config?.get(key)?;
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

/// The template of `tokenizer_config.json`: a text, or a list of named ones.
fn config_template(config: Option<&Value>) -> Option<String> {
    let value = config?.get("chat_template")?;
    if let Some(text) = value.as_str() {
        return Some(text.to_owned());
    }
    let named = |name: &str| {
        let is = |t: &&Value| t.get("name").and_then(Value::as_str) == Some(name);
        value.as_array()?.iter().find(is)?.get("template")?.as_str()
    };
    named("default").map(str::to_owned)
}
