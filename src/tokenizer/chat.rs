//! Keeps what messages say apart from what the template says: text inside a message is never
//! read as a control token.
//!
//! Before rendering, each place in a message where a control token is spelled out (or could be,
//! together with what the template puts next to it) is replaced by a private-use character that
//! occurs nowhere else. After rendering the text is put back and its place remembered, so the
//! encoder sees exactly the naive text, and knows where control tokens may not be. Templates may
//! trim, test and rearrange the content as they like.

use std::collections::HashSet;
use std::ops::Range;

use super::error::TokenizerError;
use super::special::SpecialIndex;

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ChatMessage {
    /// `system`, `user`, `assistant`, or what the model's template knows.
    pub role: String,
    /// The text.
    pub content: String,
}

/// Roles that templates write into control tokens of their own (`<|user|>`).
const ROLES: &[&str] =
    &["system", "user", "assistant", "tool", "developer", "function", "model", "ipython"];

/// Private-use characters begin here.
const FIRST_MASK: char = '\u{F0000}';

/// Messages that are safe to render, and how to put their text back.
pub(super) struct Masked {
    pub(super) messages: Vec<ChatMessage>,
    texts: Vec<(char, String)>,
}

impl Masked {
    /// # Errors
    /// There are more different forged texts than private-use characters.
    pub(super) fn new(
        messages: &[ChatMessage],
        index: &SpecialIndex,
        template: &str,
    ) -> Result<Self, TokenizerError> {
        let all = messages.iter().flat_map(|m| [m.role.as_str(), m.content.as_str()]);
        let used: HashSet<char> =
            all.chain([template]).flat_map(str::chars).filter(|c| *c >= FIRST_MASK).collect();
        let mut mask = Mask { used, next: FIRST_MASK, texts: Vec::new() };
        let mut masked = Vec::with_capacity(messages.len());
        for message in messages {
            masked.push(ChatMessage {
                role: mask.apply(&message.role, &role_places(&message.role, index))?,
                content: mask.apply(&message.content, &content_places(&message.content, index))?,
            });
        }
        Ok(Self { messages: masked, texts: mask.texts })
    }

    /// Puts the texts back and says where they are.
    pub(super) fn restore(&self, rendered: &str) -> (String, Vec<Range<usize>>) {
        if self.texts.is_empty() {
            return (rendered.to_owned(), Vec::new());
        }
        let mut text = String::with_capacity(rendered.len());
        let mut places = Vec::new();
        for c in rendered.chars() {
            let known = || self.texts.iter().find(|(mask, _)| *mask == c);
            match (c >= FIRST_MASK).then(known).flatten() {
                Some((_, original)) => {
                    places.push(text.len()..text.len() + original.len());
                    text.push_str(original);
                }
                None => text.push(c),
            }
        }
        (text, places)
    }
}

struct Mask {
    used: HashSet<char>,
    next: char,
    texts: Vec<(char, String)>,
}

impl Mask {
    fn apply(&mut self, text: &str, places: &[Range<usize>]) -> Result<String, TokenizerError> {
        let mut result = String::with_capacity(text.len());
        let mut from = 0;
        for place in places {
            result.push_str(&text[from..place.start]);
            result.push(self.mask_of(&text[place.clone()])?);
            from = place.end;
        }
        result.push_str(&text[from..]);
        Ok(result)
    }

    fn mask_of(&mut self, text: &str) -> Result<char, TokenizerError> {
        if let Some((mask, _)) = self.texts.iter().find(|(_, known)| known == text) {
            return Ok(*mask);
        }
        let free = (self.next..='\u{10FFFD}').find(|c| !self.used.contains(c));
        let mask = free.ok_or_else(|| {
            TokenizerError::template("the messages use up all private-use characters")
        })?;
        self.next = char::from_u32(mask as u32 + 1).unwrap_or('\u{10FFFF}');
        self.texts.push((mask, text.to_owned()));
        Ok(mask)
    }
}

/// Control tokens inside a content, and halves of them at its edges (templates may trim).
fn content_places(content: &str, index: &SpecialIndex) -> Vec<Range<usize>> {
    let mut places = index.find_guarded(content);
    let start = content.len() - content.trim_start().len();
    let end = content.trim_end().len();
    if start < end {
        let trimmed = &content[start..end];
        places.push(start..start + index.open_start(trimmed));
        places.push(end - index.open_end(trimmed)..end);
    }
    join(places)
}

/// A role is hidden where it would make a control token that is not of the usual roles.
fn role_places(role: &str, index: &SpecialIndex) -> Vec<Range<usize>> {
    if ROLES.contains(&role) {
        Vec::new()
    } else if index.is_inside_guarded(role) {
        std::iter::once(0..role.len()).collect()
    } else {
        content_places(role, index)
    }
}

/// Sorts ranges, drops empty ones and joins those that overlap.
fn join(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<usize>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start < last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> SpecialIndex {
        let tokens: [(&[u8], u32, bool); 2] = [(b"<|end|>", 1, true), (b"<|user|>", 2, true)];
        SpecialIndex::new(tokens.into_iter())
    }

    fn message(role: &str, content: &str) -> ChatMessage {
        ChatMessage { role: role.into(), content: content.into() }
    }

    #[test]
    fn forged_tokens_are_masked_and_come_back() {
        let messages =
            [message("user", "a <|end|> b <|end|>\u{F0000}"), message("end", " nd|> <|us ")];
        let masked = Masked::new(&messages, &index(), "{{ x }}").unwrap();
        let rendered: String =
            masked.messages.iter().map(|m| format!("<|{}|>{}", m.role, m.content.trim())).collect();
        assert!(!rendered.contains("end") && rendered.starts_with("<|user|>"), "{rendered}");
        let (text, places) = masked.restore(&rendered);
        assert_eq!(text, "<|user|>a <|end|> b <|end|>\u{F0000}<|end|>nd|> <|us");
        let hidden: Vec<&str> = places.iter().map(|place| &text[place.clone()]).collect();
        assert_eq!(hidden, ["<|end|>", "<|end|>", "end", "nd|>", "<|us"]);
    }

    #[test]
    fn benign_messages_are_left_alone() {
        let messages = [message("user", "x < y\n"), message("assistant", "")];
        let masked = Masked::new(&messages, &index(), "").unwrap();
        assert_eq!(masked.messages, messages);
    }
}
