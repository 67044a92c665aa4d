//! Sentencepiece-style encoding as llama.cpp does it: characters merge in pairs, the pair that
//! makes the token of the highest score first; what is no token in the end becomes bytes.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use super::error::TokenizerError;

/// Stands for a space inside tokens.
pub(super) const SPACE: char = '\u{2581}';

/// Encodes text without special tokens.
#[derive(Debug)]
pub(super) struct SpmEncoder {
    /// Tokens that merging may make, with their scores.
    tokens: HashMap<Box<str>, (u32, f32)>,
    bytes: Box<[u32; 256]>,
}

const NONE: usize = usize::MAX;

/// A run of characters that will be one token; `length` 0 once merged into its left neighbour.
struct Symbol {
    start: usize,
    length: usize,
    previous: usize,
    next: usize,
}

/// Two neighbours that could merge.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    length: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_place = || other.left.cmp(&self.left).then(other.length.cmp(&self.length));
        self.score.total_cmp(&other.score).then_with(by_place)
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

impl SpmEncoder {
    /// From mergeable tokens (text to id and score) and the token of each byte.
    ///
    /// # Errors
    /// A byte has no token and there is no unknown token to stand in.
    pub(super) fn new(
        tokens: HashMap<Box<str>, (u32, f32)>,
        bytes: &[Option<u32>; 256],
        unknown: Option<u32>,
    ) -> Result<Self, TokenizerError> {
        let mut all = Box::new([0; 256]);
        for (byte, id) in bytes.iter().enumerate() {
            all[byte] = id.or(unknown).ok_or_else(|| {
                let problem = format!("no token <0x{byte:02X}> and no unknown token");
                TokenizerError::vocabulary("tokenizer.ggml.tokens", problem)
            })?;
        }
        Ok(Self { tokens, bytes: all })
    }

    /// Appends the tokens of a text, with a space before it if asked.
    pub(super) fn encode(&self, text: &str, space_before: bool, ids: &mut Vec<u32>) {
        let mut escaped = String::with_capacity(text.len() + text.len() / 2 + 3);
        escaped.extend(space_before.then_some(SPACE));
        escaped.extend(text.chars().map(|c| if c == ' ' { SPACE } else { c }));
        for symbol in self.merge(&escaped).iter().filter(|symbol| symbol.length > 0) {
            let part = &escaped[symbol.start..symbol.start + symbol.length];
            match self.tokens.get(part) {
                Some((id, _)) => ids.push(*id),
                None => ids.extend(part.bytes().map(|byte| self.bytes[byte as usize])),
            }
        }
    }

    fn merge(&self, text: &str) -> Vec<Symbol> {
        let mut symbols: Vec<Symbol> = text
            .char_indices()
            .enumerate()
            .map(|(i, (start, c))| Symbol {
                start,
                length: c.len_utf8(),
                previous: i.wrapping_sub(1),
                next: i + 1,
            })
            .collect();
        if let Some(last) = symbols.last_mut() {
            last.next = NONE;
        }
        let mut queue = BinaryHeap::new();
        for right in 1..symbols.len() {
            queue.extend(self.pair(text, &symbols, right - 1, right));
        }
        while let Some(pair) = queue.pop() {
            let (left, right) = (&symbols[pair.left], &symbols[pair.right]);
            // One of the two was merged since.
            if left.length == 0 || right.length == 0 || left.length + right.length != pair.length {
                continue;
            }
            let (previous, next) = (left.previous, right.next);
            symbols[pair.right].length = 0;
            symbols[pair.left].length = pair.length;
            symbols[pair.left].next = next;
            if next != NONE {
                symbols[next].previous = pair.left;
            }
            queue.extend(self.pair(text, &symbols, previous, pair.left));
            queue.extend(self.pair(text, &symbols, pair.left, next));
        }
        symbols
    }

    /// The merge of two neighbours, if there is a token for it.
    fn pair(&self, text: &str, symbols: &[Symbol], left: usize, right: usize) -> Option<Pair> {
        if left == NONE || right == NONE {
            return None;
        }
        let start = symbols[left].start;
        let length = symbols[left].length + symbols[right].length;
        let (_, score) = self.tokens.get(&text[start..start + length])?;
        // Adding zero makes -0 and 0 the same.
        Some(Pair { score: score + 0.0, left, right, length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoder() -> SpmEncoder {
        let tokens = [("a", -9.0), ("b", -9.0), ("ab", -1.0), ("ba", -0.5), ("▁", -9.0)];
        let tokens = tokens.iter().enumerate();
        let tokens = tokens.map(|(i, (text, score))| (Box::from(*text), (i as u32, *score)));
        let bytes = std::array::from_fn(|byte| Some(100 + byte as u32));
        SpmEncoder::new(tokens.collect(), &bytes, None).unwrap()
    }

    fn encode(text: &str, space_before: bool) -> Vec<u32> {
        let mut ids = Vec::new();
        encoder().encode(text, space_before, &mut ids);
        ids
    }

    #[test]
    fn the_higher_score_merges_first_then_the_leftmost() {
        assert_eq!(encode("aba", false), [0, 3]);
        assert_eq!(encode("abab", false), [0, 3, 1]);
        assert_eq!(encode("ab b", true), [4, 2, 4, 1]);
        assert!(encode("", false).is_empty());
    }

    #[test]
    fn what_is_no_token_becomes_bytes() {
        assert_eq!(encode("aé", false), [0, 100 + 0xC3, 100 + 0xA9]);
    }

    #[test]
    fn a_missing_byte_is_an_error() {
        let error = SpmEncoder::new(HashMap::new(), &[None; 256], None).unwrap_err();
        assert!(error.to_string().contains("<0x00>"), "{error}");
    }
}
