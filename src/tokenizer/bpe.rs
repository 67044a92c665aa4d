//! Byte-level BPE: text is cut into words, bytes become printable characters, pairs merge.

use tokenizers::Model;
use tokenizers::models::bpe::{BPE, Merges, Vocab as BpeVocab};

use super::error::TokenizerError;
use super::pre::PreTokenizer;

/// The printable character GPT-2's byte alphabet has for each byte.
pub const BYTE_CHARS: [char; 256] = byte_chars();

const fn byte_chars() -> [char; 256] {
    let mut chars = ['\0'; 256];
    let (mut byte, mut next) = (0_u32, 256);
    while byte < 256 {
        let printable = matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
        let code = if printable { byte } else { next };
        next += !printable as u32;
        chars[byte as usize] = match char::from_u32(code) {
            Some(c) => c,
            None => '\0',
        };
        byte += 1;
    }
    chars
}

/// The byte a character of the alphabet stands for.
fn char_byte(c: char) -> Option<u8> {
    match c as u32 {
        code @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// Appends the bytes of a token; one with characters outside the alphabet stands for its own text.
pub(super) fn token_bytes(token: &str, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    for c in token.chars() {
        let Some(byte) = char_byte(c) else {
            bytes.truncate(start);
            return bytes.extend_from_slice(token.as_bytes());
        };
        bytes.push(byte);
    }
}

/// Encodes text without special tokens.
#[derive(Debug)]
pub(super) struct BpeEncoder {
    pre: PreTokenizer,
    model: BPE,
}

impl BpeEncoder {
    /// From the mergeable tokens and `left right` merges in order of rank.
    ///
    /// # Errors
    /// A merge is not two tokens that make a third.
    pub(super) fn new(
        pre: PreTokenizer,
        tokens: BpeVocab,
        merges: &[String],
    ) -> Result<Self, TokenizerError> {
        let merges = parse_merges(&tokens, merges)?;
        let model = BPE::builder()
            .vocab_and_merges(tokens, merges)
            .ignore_merges(pre.ignore_merges)
            .build()
            .map_err(|e| TokenizerError::vocabulary("tokenizer.ggml.merges", e.to_string()))?;
        Ok(Self { pre, model })
    }

    /// Appends the tokens of a text.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let mut word_chars = String::new();
        for word in self.pre.words(text) {
            word_chars.clear();
            word_chars.extend(word.bytes().map(|byte| BYTE_CHARS[byte as usize]));
            let tokens = self.model.tokenize(&word_chars).map_err(|e| TokenizerError::Encode {
                bytes: text.len(),
                problem: e.to_string(),
            })?;
            ids.extend(tokens.iter().map(|token| token.id));
        }
        Ok(())
    }
}

fn parse_merges(tokens: &BpeVocab, merges: &[String]) -> Result<Merges, TokenizerError> {
    // The library indexes a buffer of this length with what a merge makes.
    let longest = tokens.keys().map(String::len).max().unwrap_or(0);
    let mut pairs = Vec::with_capacity(merges.len());
    for (rank, merge) in merges.iter().enumerate() {
        let bad = |problem: &str| {
            let shown: String = merge.chars().take(80).collect();
            TokenizerError::vocabulary(
                format!("tokenizer.ggml.merges[{rank}]"),
                format!("`{shown}` {problem}"),
            )
        };
        // A token never contains a space, for the alphabet has none; but it is never empty.
        let (left, right) = merge.split_once(' ').ok_or_else(|| bad("is not `left right`"))?;
        if !tokens.contains_key(left) || !tokens.contains_key(right) {
            return Err(bad("names a token that is not in tokenizer.ggml.tokens"));
        }
        if left.len() + right.len() > longest {
            return Err(bad("makes a token that is not in tokenizer.ggml.tokens"));
        }
        pairs.push((left.to_owned(), right.to_owned()));
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_goes_both_ways() {
        for byte in 0..=255_u8 {
            assert_eq!(char_byte(BYTE_CHARS[byte as usize]), Some(byte));
        }
        assert_eq!(BYTE_CHARS[b' ' as usize], 'Ġ');
        assert_eq!(BYTE_CHARS[b'\n' as usize], 'Ċ');
    }

    #[test]
    fn tokens_outside_the_alphabet_are_their_text() {
        let mut bytes = Vec::new();
        token_bytes("Ġa", &mut bytes);
        token_bytes("a b", &mut bytes);
        assert_eq!(bytes, b" aa b");
    }
}
