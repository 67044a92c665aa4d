//! Tokenizers from the keys of a GGUF header.

use std::collections::HashMap;

use tokenizers::models::bpe::Vocab as BpeVocab;

use super::bpe::{self, BpeEncoder};
use super::codec::{Encoder, Tokenizer};
use super::error::TokenizerError;
use super::pre::PreTokenizer;
use super::source::GgufVocab;
use super::special::SpecialIndex;
use super::spm::{SPACE, SpmEncoder};
use super::template::ChatTemplate;
use super::vocab::{Kind, MAX_TOKENS, Vocab, is_certain_end_text, is_end_text};

const TOKENS: &str = "tokenizer.ggml.tokens";

/// # Errors
/// The family is not supported, or keys contradict each other.
pub(super) fn build(source: &GgufVocab) -> Result<Tokenizer, TokenizerError> {
    let is_spm = match source.model.as_str() {
        "gpt2" => false,
        "llama" => true,
        other => return Err(TokenizerError::UnknownModel { model: other.to_owned() }),
    };
    check_lengths(source, is_spm)?;
    let kinds = kinds(source);
    let mut vocab = build_vocab(source, &kinds, is_spm)?;
    find_ends(source, &kinds, &mut vocab);
    let (encoder, add_bos) = if is_spm {
        let unknown = source.unknown;
        vocab.check_id("tokenizer.ggml.unknown_token_id", unknown)?;
        (Encoder::Spm(build_spm(source, &kinds, unknown)?), true)
    } else {
        let pre = PreTokenizer::by_name(source.pre.as_deref())?;
        // Llama 3 without a BOS id is left without one.
        let add_bos = pre.add_bos && vocab.bos.is_some();
        let encoder = BpeEncoder::new(pre, bpe_tokens(source, &kinds)?, &source.merges)?;
        (Encoder::Bpe(Box::new(encoder)), add_bos)
    };
    let specials = kinds.iter().zip(0_u32..).filter(|(kind, _)| kind.is_special());
    let specials =
        SpecialIndex::new(specials.map(|(kind, id)| (vocab.raw(id), id, kind.is_guarded())));
    let add = |wanted: bool, key: &str, id: Option<u32>| match (wanted, id) {
        (false, _) => Ok(Vec::new()),
        (true, Some(id)) => Ok(vec![id]),
        (true, None) => {
            Err(TokenizerError::vocabulary(key, "is set, but the header does not name that token"))
        }
    };
    Ok(Tokenizer {
        encoder,
        specials,
        prefix: add(source.add_bos.unwrap_or(add_bos), "tokenizer.ggml.add_bos_token", vocab.bos)?,
        suffix: add(source.add_eos.unwrap_or(false), "tokenizer.ggml.add_eos_token", vocab.eos)?,
        vocab,
        space_prefix: is_spm && source.add_space_prefix.unwrap_or(true),
        template: source.chat_template.as_deref().map(ChatTemplate::new),
    })
}

fn check_lengths(source: &GgufVocab, is_spm: bool) -> Result<(), TokenizerError> {
    let tokens = source.tokens.len();
    if tokens == 0 || tokens > MAX_TOKENS {
        let problem = format!("has {tokens} entries, expected 1 to {MAX_TOKENS}");
        return Err(TokenizerError::vocabulary(TOKENS, problem));
    }
    let same = |key: &str, length: usize, required: bool| {
        if length == tokens || (length == 0 && !required) {
            return Ok(());
        }
        let problem = format!("has {length} entries, but {TOKENS} has {tokens}");
        Err(TokenizerError::vocabulary(key, problem))
    };
    same("tokenizer.ggml.token_type", source.token_types.len(), false)?;
    same("tokenizer.ggml.scores", source.scores.len(), is_spm)?;
    // Each useful merge makes one token, but merges may repeat.
    if source.merges.len() > 2 * MAX_TOKENS {
        let problem =
            format!("has {} entries, the limit is {}", source.merges.len(), 2 * MAX_TOKENS);
        return Err(TokenizerError::vocabulary("tokenizer.ggml.merges", problem));
    }
    Ok(())
}

/// Kinds by id. Tokens that end a turn are control tokens even where a converter forgot it.
fn kinds(source: &GgufVocab) -> Vec<Kind> {
    let kind = |(id, text): (usize, &String)| {
        let stated = source.token_types.get(id).map_or(Kind::Normal, |&t| Kind::from_gguf(t));
        let id = Some(id as u32);
        let named = id == source.bos || id == source.eos || id == source.eot;
        let marker = is_marker(text);
        match stated {
            Kind::UserDefined if named || marker || is_certain_end_text(text) => Kind::Control,
            Kind::Normal if is_end_text(text) && (named || marker) => Kind::Control,
            _ => stated,
        }
    };
    source.tokens.iter().enumerate().map(kind).collect()
}

/// `<|…|>` and `<end_of_turn>`: written so for no other use.
fn is_marker(text: &str) -> bool {
    (text.len() > 4 && text.starts_with("<|") && text.ends_with("|>")) || text == "<end_of_turn>"
}

fn build_vocab(source: &GgufVocab, kinds: &[Kind], is_spm: bool) -> Result<Vocab, TokenizerError> {
    let mut vocab = Vocab::default();
    let mut bytes = Vec::new();
    for (text, kind) in source.tokens.iter().zip(kinds) {
        bytes.clear();
        match kind {
            Kind::Byte => bytes.push(parse_byte(text).ok_or_else(|| {
                let problem =
                    format!("is of type byte, but its text is not <0x00> to <0xFF>: `{text}`");
                TokenizerError::vocabulary(format!("{TOKENS}[{}]", vocab.len()), problem)
            })?),
            Kind::Normal if is_spm => spm_bytes(text, &mut bytes),
            Kind::Normal => bpe::token_bytes(text, &mut bytes),
            _ => bytes.extend_from_slice(text.as_bytes()),
        }
        vocab.push(&bytes, kind.is_silent())?;
    }
    vocab.check_id("tokenizer.ggml.bos_token_id", source.bos)?;
    vocab.check_id("tokenizer.ggml.eos_token_id", source.eos)?;
    vocab.check_id("tokenizer.ggml.eot_token_id", source.eot)?;
    // Sentencepiece's own places, for headers that leave them out.
    let tokens = vocab.len();
    let default = |id: u32| (is_spm && tokens > id as usize).then_some(id);
    vocab.bos = source.bos.or_else(|| default(1));
    vocab.eos = source.eos.or_else(|| default(2));
    Ok(vocab)
}

/// The text of a sentencepiece token: U+2581 is a space.
pub(super) fn spm_bytes(text: &str, bytes: &mut Vec<u8>) {
    let mut parts = text.split(SPACE);
    bytes.extend_from_slice(parts.next().unwrap_or("").as_bytes());
    for part in parts {
        bytes.push(b' ');
        bytes.extend_from_slice(part.as_bytes());
    }
}

/// The value of `<0xAB>`.
pub(super) fn parse_byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

fn find_ends(source: &GgufVocab, kinds: &[Kind], vocab: &mut Vocab) {
    for id in [vocab.eos, source.eot].into_iter().flatten() {
        vocab.add_end(id);
    }
    for ((id, text), kind) in (0_u32..).zip(&source.tokens).zip(kinds) {
        if *kind == Kind::Control && is_end_text(text) {
            vocab.add_end(id);
        }
    }
    vocab.settle_ends();
}

fn duplicate(text: &str, first: u32, second: u32) -> TokenizerError {
    let shown: String = text.chars().take(80).collect();
    let problem = format!("ids {first} and {second} are both `{shown}`");
    TokenizerError::vocabulary(TOKENS, problem)
}

/// Tokens that merging may make; control tokens are not among them, so text cannot forge one.
fn mergeable<'a>(
    source: &'a GgufVocab,
    kinds: &'a [Kind],
) -> impl Iterator<Item = (u32, &'a String)> {
    let tokens = (0_u32..).zip(&source.tokens).zip(kinds);
    let wanted = |kind| matches!(kind, Kind::Normal | Kind::UserDefined);
    tokens.filter(move |((_, text), kind)| wanted(**kind) && !text.is_empty()).map(|(t, _)| t)
}

fn bpe_tokens(source: &GgufVocab, kinds: &[Kind]) -> Result<BpeVocab, TokenizerError> {
    let mut tokens = BpeVocab::with_capacity(source.tokens.len());
    for (id, text) in mergeable(source, kinds) {
        if let Some(first) = tokens.insert(text.clone(), id) {
            return Err(duplicate(text, first, id));
        }
    }
    Ok(tokens)
}

fn build_spm(
    source: &GgufVocab,
    kinds: &[Kind],
    unknown: Option<u32>,
) -> Result<SpmEncoder, TokenizerError> {
    let mut tokens = HashMap::with_capacity(source.tokens.len());
    for (id, text) in mergeable(source, kinds) {
        let score = source.scores[id as usize];
        if !score.is_finite() {
            let problem = format!("is {score}, expected a finite number");
            return Err(TokenizerError::vocabulary(
                format!("tokenizer.ggml.scores[{id}]"),
                problem,
            ));
        }
        if let Some((first, _)) = tokens.insert(Box::from(text.as_str()), (id, score)) {
            return Err(duplicate(text, first, id));
        }
    }
    let mut bytes = [None; 256];
    for ((id, text), kind) in (0_u32..).zip(&source.tokens).zip(kinds) {
        // Headers without types have them as normal tokens.
        if (*kind == Kind::Byte || source.token_types.is_empty())
            && let Some(byte) = parse_byte(text)
        {
            bytes[byte as usize] = Some(id);
        }
    }
    SpmEncoder::new(tokens, &bytes, unknown)
}
