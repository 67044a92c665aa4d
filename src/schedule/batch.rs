//! The ragged set of positions that one pass computes.

use crate::kernel::{AttentionRow, PAGE_LEN};

/// Consecutive positions of one sequence that join a pass.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// Ids of the tokens at these positions.
    pub tokens: &'a [u32],
    /// Logical position of the first.
    pub start: usize,
    /// The sequence's pages, enough for the last position.
    pub pages: &'a [u32],
    /// How many of the last rows want logits.
    pub logits: usize,
}

/// Rows of a pass, packed without padding, and the map of what each attends to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Token id of each row.
    pub tokens: Vec<u32>,
    /// Logical position of each row.
    pub positions: Vec<u32>,
    /// Cache slot that each row's key and value go to.
    pub slots: Vec<u32>,
    /// What each row attends to.
    pub map: Vec<AttentionRow>,
    /// Page table that `map` points into.
    pub pages: Vec<u32>,
    /// Cache slots that `map` points into: ancestors of tree nodes.
    pub path: Vec<u32>,
    /// Rows that want logits, in order.
    pub outputs: Vec<u32>,
}

impl Batch {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Empties the batch, keeping its memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.slots.clear();
        self.map.clear();
        self.pages.clear();
        self.path.clear();
        self.outputs.clear();
    }

    /// Adds a span: a chunk of a prompt, or one decoded token.
    pub fn push(&mut self, span: Span<'_>) {
        let end = span.start + span.tokens.len();
        assert!(span.pages.len() * PAGE_LEN >= end, "pages do not reach position {end}");
        assert!(span.logits <= span.tokens.len());
        let page_start = self.pages.len() as u32;
        self.pages.extend(&span.pages[..end.div_ceil(PAGE_LEN)]);
        for (i, &token) in span.tokens.iter().enumerate() {
            let position = span.start + i;
            if i + span.logits >= span.tokens.len() {
                self.outputs.push(self.tokens.len() as u32);
            }
            self.tokens.push(token);
            self.positions.push(position as u32);
            let slot = span.pages[position / PAGE_LEN] as usize * PAGE_LEN + position % PAGE_LEN;
            self.slots.push(slot as u32);
            let length = position as u32 + 1;
            self.map.push(AttentionRow { page_start, prefix: length, path_start: 0, length });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_maps_positions_to_its_pages() {
        let mut batch = Batch::default();
        batch.push(Span { tokens: &[7], start: 3, pages: &[9], logits: 1 });
        batch.push(Span { tokens: &[1, 2, 3], start: 15, pages: &[4, 2], logits: 1 });
        assert_eq!(batch.slots, [9 * 16 + 3, 4 * 16 + 15, 2 * 16, 2 * 16 + 1]);
        assert_eq!(batch.outputs, [0, 3]);
        assert_eq!(batch.pages, [9, 4, 2]);
        assert_eq!(batch.map[3].page_start, 1);
        assert_eq!(batch.map[3].length, 18);
    }
}
