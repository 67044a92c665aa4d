//! Finds the tokens that are recognised in text as a whole, before any merging.

use std::collections::HashMap;
use std::ops::Range;

/// Longest text of such a token; keeps a hostile vocabulary from making the search slow.
const MAX_SPECIAL_BYTES: usize = 512;

/// A part of a text: one special token, or text between them.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fragment<'a> {
    Text(&'a str),
    Token(u32),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    id: u32,
    guarded: bool,
}

/// Special tokens by text; leftmost-longest search.
#[derive(Debug)]
pub(super) struct SpecialIndex {
    entries: HashMap<Box<[u8]>, Entry>,
    /// Lengths of the tokens that begin with this byte, longest first.
    lengths: Vec<Vec<usize>>,
    /// Texts of guarded tokens, sorted, and the same read backwards.
    guarded: Vec<Box<[u8]>>,
    guarded_reversed: Vec<Box<[u8]>>,
}

impl SpecialIndex {
    /// From (text, id, guarded); of equal texts the last one counts, empty and overlong ones none.
    pub(super) fn new<'a>(tokens: impl Iterator<Item = (&'a [u8], u32, bool)>) -> Self {
        let mut entries = HashMap::new();
        let mut lengths = vec![Vec::new(); 256];
        for (text, id, guarded) in tokens {
            if text.is_empty() || text.len() > MAX_SPECIAL_BYTES {
                continue;
            }
            entries.insert(Box::from(text), Entry { id, guarded });
            let lengths: &mut Vec<usize> = &mut lengths[text[0] as usize];
            if let Err(at) = lengths.binary_search_by(|length| text.len().cmp(length)) {
                lengths.insert(at, text.len());
            }
        }
        let texts = entries.iter().filter(|(_, entry)| entry.guarded).map(|(text, _)| text);
        let mut guarded: Vec<Box<[u8]>> = texts.cloned().collect();
        let reversed = guarded.iter().map(|text| text.iter().rev().copied().collect());
        let mut guarded_reversed: Vec<Box<[u8]>> = reversed.collect();
        guarded.sort_unstable();
        guarded_reversed.sort_unstable();
        Self { entries, lengths, guarded, guarded_reversed }
    }

    /// The longest allowed token that starts at a byte.
    fn match_at(
        &self,
        text: &[u8],
        at: usize,
        allowed: &impl Fn(Range<usize>, bool) -> bool,
    ) -> Option<(usize, Entry)> {
        for &length in &self.lengths[text[at] as usize] {
            let end = at + length;
            if let Some(entry) = text.get(at..end).and_then(|part| self.entries.get(part))
                && allowed(at..end, entry.guarded)
            {
                return Some((end, *entry));
            }
        }
        None
    }

    /// Cuts a text at its special tokens; `allowed` gets the byte range and whether the token is
    /// guarded.
    pub(super) fn split<'a>(
        &self,
        text: &'a str,
        allowed: impl Fn(Range<usize>, bool) -> bool,
    ) -> Vec<Fragment<'a>> {
        let mut fragments = Vec::new();
        let (mut from, mut at) = (0, 0);
        while at < text.len() {
            let Some((end, entry)) = self.match_at(text.as_bytes(), at, &allowed) else {
                at += 1;
                continue;
            };
            if from < at {
                fragments.push(Fragment::Text(&text[from..at]));
            }
            fragments.push(Fragment::Token(entry.id));
            (from, at) = (end, end);
        }
        if from < text.len() {
            fragments.push(Fragment::Text(&text[from..]));
        }
        fragments
    }

    /// Byte ranges of guarded tokens written in a text.
    pub(super) fn find_guarded(&self, text: &str) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < text.len() {
            match self.match_at(text.as_bytes(), at, &|_, guarded| guarded) {
                Some((end, _)) => {
                    found.push(at..end);
                    at = end;
                }
                None => at += 1,
            }
        }
        found
    }

    /// How many bytes at the end of a text could begin a guarded token that goes on after it.
    pub(super) fn open_end(&self, text: &str) -> usize {
        let starts = text.len().saturating_sub(MAX_SPECIAL_BYTES)..text.len();
        starts
            .filter(|&at| text.is_char_boundary(at))
            .find(|&at| begins_longer(&self.guarded, &text.as_bytes()[at..]))
            .map_or(0, |at| text.len() - at)
    }

    /// How many bytes at the start of a text could end a guarded token that began before it.
    pub(super) fn open_start(&self, text: &str) -> usize {
        let longest = text.len().min(MAX_SPECIAL_BYTES);
        let mut reversed: Vec<u8> = Vec::with_capacity(longest);
        (1..=longest)
            .rev()
            .filter(|&length| text.is_char_boundary(length))
            .find(|&length| {
                reversed.clear();
                reversed.extend(text.as_bytes()[..length].iter().rev());
                begins_longer(&self.guarded_reversed, &reversed)
            })
            .unwrap_or(0)
    }

    /// Whether a guarded token's text contains this text.
    pub(super) fn is_inside_guarded(&self, text: &str) -> bool {
        let part = text.as_bytes();
        !part.is_empty()
            && self.guarded.iter().any(|token| token.windows(part.len()).any(|w| w == part))
    }
}

/// Whether some text of a sorted list starts with `part` and is longer.
fn begins_longer(sorted: &[Box<[u8]>], part: &[u8]) -> bool {
    let at = sorted.partition_point(|text| &**text <= part);
    sorted.get(at).is_some_and(|text| text.starts_with(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> SpecialIndex {
        let tokens: [(&[u8], u32, bool); 4] =
            [(b"<|end|>", 1, true), (b"\n\n", 2, false), (b"\n", 3, false), (b"<s>", 4, true)];
        SpecialIndex::new(tokens.into_iter())
    }

    #[test]
    fn longest_match_wins() {
        let fragments = index().split("a\n\n\nb<|end|>", |_, _| true);
        let expected = [
            Fragment::Text("a"),
            Fragment::Token(2),
            Fragment::Token(3),
            Fragment::Text("b"),
            Fragment::Token(1),
        ];
        assert_eq!(fragments, expected);
    }

    #[test]
    fn guarded_tokens_can_be_refused() {
        let fragments = index().split("<s>\n", |_, guarded| !guarded);
        assert_eq!(fragments, [Fragment::Text("<s>"), Fragment::Token(3)]);
        assert_eq!(index().find_guarded("x<s><|end|>\n"), [1..4, 4..11]);
    }

    #[test]
    fn halves_of_tokens_at_the_edges() {
        assert_eq!(index().open_end("text <|en"), 4);
        assert_eq!(index().open_end("<|end|>"), 0);
        assert_eq!(index().open_start("nd|> text"), 4);
        assert_eq!(index().open_start("text"), 0);
        assert_eq!(index().open_end("é"), 0);
        assert!(index().is_inside_guarded("end"));
        assert!(!index().is_inside_guarded("user"));
    }
}
