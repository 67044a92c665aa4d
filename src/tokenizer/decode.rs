//! Ids to text, one at a time, never splitting a character.

use super::codec::Tokenizer;

/// Turns a stream of ids into text. Bytes of an unfinished character wait for the rest.
#[derive(Clone, Debug)]
pub struct Decoder<'t> {
    tokenizer: &'t Tokenizer,
    pending: Vec<u8>,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nothing seen yet.
    Start,
    /// Only BOS seen: the next text begins with the space that encoding put there.
    AfterBos,
    Inside,
}

impl<'t> Decoder<'t> {
    pub(super) fn new(tokenizer: &'t Tokenizer) -> Self {
        Self { tokenizer, pending: Vec::new(), place: Place::Start }
    }

    /// Text that `id` completes; empty for control tokens and unfinished characters. Bytes that
    /// cannot be UTF-8 become U+FFFD.
    pub fn push(&mut self, id: u32) -> String {
        let mut piece = self.tokenizer.piece(id);
        match self.place {
            Place::Start => {
                let bos = self.tokenizer.has_space_prefix() && self.tokenizer.bos() == Some(id);
                self.place = if bos { Place::AfterBos } else { Place::Inside };
            }
            Place::AfterBos if !piece.is_empty() => {
                piece = piece.strip_prefix(b" ").unwrap_or(piece);
                self.place = Place::Inside;
            }
            Place::AfterBos | Place::Inside => {}
        }
        self.pending.extend_from_slice(piece);
        self.take_complete()
    }

    /// What is left of an unfinished character: U+FFFD or nothing.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }

    fn take_complete(&mut self) -> String {
        let unfinished = match self.pending.utf8_chunks().last() {
            // An invalid sequence at the very end may be the start of a character.
            Some(last) if is_unfinished(last.invalid()) => last.invalid().len(),
            _ => 0,
        };
        let rest = self.pending.split_off(self.pending.len() - unfinished);
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending = rest;
        text
    }
}

/// Whether more bytes could make this a character.
fn is_unfinished(bytes: &[u8]) -> bool {
    match std::str::from_utf8(bytes) {
        Ok(_) => false,
        Err(error) => error.error_len().is_none(),
    }
}
