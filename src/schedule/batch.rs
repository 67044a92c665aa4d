//! The ragged set of positions that one pass computes.

use crate::kernel::{AttentionRow, PAGE_LEN};
use std::collections::HashMap;

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

    /// Cuts the batch into micro-batches of up to `rows` rows and `pages` entries of the page table, in
    /// order. Each has the part of the page table and of the paths that its rows use.
    ///
    /// A row that sees more pages is a micro-batch of its own.
    pub fn split(&self, rows: usize, pages: usize) -> Vec<Batch> {
        let mut parts = Vec::new();
        let mut first = 0;
        // Pages of the sequences before the current one, and of the current one.
        let (mut before, mut own) = (0, 0);
        for (row, map) in self.map.iter().enumerate() {
            let seen = (map.prefix as usize).div_ceil(PAGE_LEN);
            if row > first && map.page_start != self.map[row - 1].page_start {
                before += std::mem::take(&mut own);
            }
            if row > first && (row - first == rows || before + own.max(seen) > pages) {
                parts.push(self.slice(first, row));
                (first, before, own) = (row, 0, 0);
            }
            own = own.max(seen);
        }
        if first < self.rows() {
            parts.push(self.slice(first, self.rows()));
        }
        parts
    }

    /// Numbers the batch's pages by their place in its page table, from 0: `slots` and `path` for a
    /// cache that holds these pages alone, in this order.
    pub fn windowed(&self) -> (Vec<u32>, Vec<u32>) {
        let at: HashMap<u32, u32> = self.pages.iter().copied().zip(0..).collect();
        let len = PAGE_LEN as u32;
        let slot = |&slot: &u32| at[&(slot / len)] * len + slot % len;
        (self.slots.iter().map(slot).collect(), self.path.iter().map(slot).collect())
    }

    /// Pages that the batch's rows write to, each once.
    pub fn pages_written(&self) -> Vec<u32> {
        let mut pages: Vec<u32> = self.slots.iter().map(|slot| slot / PAGE_LEN as u32).collect();
        pages.sort_unstable();
        pages.dedup();
        pages
    }

    fn slice(&self, first: usize, end: usize) -> Batch {
        let mut part = Batch {
            tokens: self.tokens[first..end].to_vec(),
            positions: self.positions[first..end].to_vec(),
            slots: self.slots[first..end].to_vec(),
            ..Batch::default()
        };
        let within = |&row: &u32| (first..end).contains(&(row as usize));
        let outputs = self.outputs.iter().copied().filter(within);
        part.outputs = outputs.map(|row| row - first as u32).collect();
        for rows in self.map[first..end].chunk_by(|a, b| a.page_start == b.page_start) {
            // Rows of one sequence share its pages.
            let from = rows[0].page_start as usize;
            let prefix = rows.iter().map(|row| row.prefix).max().unwrap_or(0) as usize;
            let page_start = part.pages.len() as u32;
            part.pages.extend(&self.pages[from..from + prefix.div_ceil(PAGE_LEN)]);
            for row in rows {
                let path = row.path_start as usize;
                let path_start = part.path.len() as u32;
                part.path.extend(&self.path[path..path + (row.length - row.prefix) as usize]);
                part.map.push(AttentionRow { page_start, path_start, ..*row });
            }
        }
        part
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

    #[test]
    fn micro_batches_see_what_the_batch_sees() {
        let mut batch = Batch::default();
        batch.push(Span { tokens: &[7], start: 3, pages: &[9], logits: 1 });
        batch.push(Span { tokens: &[1, 2, 3], start: 15, pages: &[4, 2], logits: 1 });
        batch.push(Span { tokens: &[5], start: 32, pages: &[6, 7, 8], logits: 1 });
        // The last row as a tree node: two positions by page, itself by path.
        batch.map[4] = AttentionRow { prefix: 31, path_start: 0, length: 33, ..batch.map[4] };
        batch.path = vec![40, 41];
        let seen = |batch: &Batch| -> Vec<Vec<u32>> {
            let row = |row: &AttentionRow| {
                let page = |p: u32| batch.pages[(row.page_start + p / 16) as usize] * 16 + p % 16;
                let paged = (0..row.prefix).map(page);
                let path = (row.prefix..row.length).map(|p| p - row.prefix + row.path_start);
                paged.chain(path.map(|at| batch.path[at as usize])).collect()
            };
            batch.map.iter().map(row).collect()
        };
        for (rows, pages) in (1..6).flat_map(|rows| (3..7).map(move |pages| (rows, pages))) {
            let parts = batch.split(rows, pages);
            assert!(parts.iter().all(|p| p.rows() <= rows && p.pages.len() <= pages));
            assert_eq!(parts.iter().flat_map(seen).collect::<Vec<_>>(), seen(&batch));
            let tokens: Vec<u32> = parts.iter().flat_map(|p| p.tokens.clone()).collect();
            assert_eq!(tokens, batch.tokens);
            let outputs: usize = parts.iter().map(|p| p.outputs.len()).sum();
            assert_eq!(outputs, 3);
        }
        assert_eq!(batch.split(2, 9)[1].outputs, [1]);
    }
}
