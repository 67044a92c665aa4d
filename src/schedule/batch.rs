//! The ragged set of positions that one pass computes.

use crate::kernel::{AttentionRow, PAGE_LEN, TREE_DEPTH_MAX};
use std::collections::HashMap;

/// Consecutive positions of one sequence that join a pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Span<'a> {
    /// Ids of the tokens at these positions.
    pub tokens: &'a [u32],
    /// Logical position of the first.
    pub start: usize,
    /// The sequence's pages, enough for the last position.
    pub pages: &'a [u32],
    /// How many of the last rows want logits.
    pub logits: usize,
    /// Cache rows that change their place before anything is computed, see [`Batch::push`].
    pub moves: &'a [CacheMove],
}

/// `(from, to)`: what lies where position `from` of a sequence would is moved to where position `to` is.
pub type CacheMove = (u32, u32);

/// Cache slots `[from, to]` of moves in a sequence with these pages.
pub fn moved_slots(pages: &[u32], moves: &[CacheMove]) -> impl Iterator<Item = [u32; 2]> {
    moves.iter().map(|&(from, to)| [from, to].map(|row| slot(pages, row as usize)))
}

/// Nodes of a draft tree that join a pass.
///
/// Row `r` of a tree lies in the cache where position `start + r` of its sequence would, whatever the
/// node's depth; row 0 is the root, the token at position `start`.
#[derive(Clone, Copy, Debug, Default)]
pub struct TreeSpan<'a> {
    /// Ids of the tokens just before the root that join the pass too: the end of a prompt.
    pub lead: &'a [u32],
    /// Id of each node's token.
    pub tokens: &'a [u32],
    /// Rows of each node's path, from depth 1 to the node itself; that of the root is empty.
    pub paths: &'a [Vec<u32>],
    /// Logical position of the root.
    pub start: usize,
    /// The sequence's pages, enough for the last row of any path.
    pub pages: &'a [u32],
    /// Nodes that want logits, ascending: indices into `tokens`.
    pub outputs: &'a [usize],
    /// As in [`Span`].
    pub moves: &'a [CacheMove],
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
    /// For each row how many pages of its sequence, counted from the first, it reads or writes.
    reach: Vec<u32>,
    /// Slots that are moved, `[from, to]`, and the row before which each is.
    moves: Vec<[u32; 2]>,
    moved_before: Vec<u32>,
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
        self.reach.clear();
        self.moves.clear();
        self.moved_before.clear();
    }

    /// Moves of cache slots that come before everything else, in order: `[from, to]`.
    pub fn moves(&self) -> &[[u32; 2]] {
        &self.moves
    }

    /// Most positions that a row sees.
    pub fn longest(&self) -> usize {
        self.map.iter().map(|row| row.length as usize).max().unwrap_or(0)
    }

    /// Cuts the batch into micro-batches of up to `rows` rows and `pages` entries of the page table, in
    /// order. Each has the part of the page table and of the paths that its rows use.
    ///
    /// A row that sees more pages is a micro-batch of its own.
    pub fn split(&self, rows: usize, pages: usize) -> Vec<Batch> {
        let mut parts = Vec::new();
        self.split_into(rows, pages, &mut Vec::new(), &mut parts);
        parts
    }

    /// As [`Batch::split`], into `parts`, of `spare` batches as far as there are any.
    pub fn split_into(
        &self,
        rows: usize,
        pages: usize,
        spare: &mut Vec<Batch>,
        parts: &mut Vec<Batch>,
    ) {
        let mut first = 0;
        let mut cut = |first: usize, end: usize| {
            let mut part = spare.pop().unwrap_or_default();
            part.clear();
            self.slice(first, end, &mut part);
            parts.push(part);
        };
        // Pages of the sequences before the current one, and of the current one.
        let (mut before, mut own) = (0, 0);
        for (row, map) in self.map.iter().enumerate() {
            let seen = self.reach[row] as usize;
            if row > first && map.page_start != self.map[row - 1].page_start {
                before += std::mem::take(&mut own);
            }
            if row > first && (row - first == rows || before + own.max(seen) > pages) {
                cut(first, row);
                (first, before, own) = (row, 0, 0);
            }
            own = own.max(seen);
        }
        if first < self.rows() {
            cut(first, self.rows());
        }
    }

    /// Numbers the batch's pages by their place in its page table, from 0: `slots`, `path` and moves for
    /// a cache that holds these pages alone, in this order.
    pub fn windowed(&self) -> (Vec<u32>, Vec<u32>, Vec<[u32; 2]>) {
        let at: HashMap<u32, u32> = self.pages.iter().copied().zip(0..).collect();
        let len = PAGE_LEN as u32;
        let slot = |slot: u32| at[&(slot / len)] * len + slot % len;
        let all = |slots: &[u32]| slots.iter().copied().map(slot).collect();
        let moves = self.moves.iter().map(|slots| slots.map(slot));
        (all(&self.slots), all(&self.path), moves.collect())
    }

    /// Pages that the batch's rows write to, each once.
    pub fn pages_written(&self) -> Vec<u32> {
        let moved = self.moves.iter().map(|[_, to]| to);
        let slots = self.slots.iter().chain(moved);
        let mut pages: Vec<u32> = slots.map(|slot| slot / PAGE_LEN as u32).collect();
        pages.sort_unstable();
        pages.dedup();
        pages
    }

    /// Adds some rows to an empty batch.
    fn slice(&self, first: usize, end: usize, part: &mut Batch) {
        part.tokens.extend(&self.tokens[first..end]);
        part.positions.extend(&self.positions[first..end]);
        part.slots.extend(&self.slots[first..end]);
        part.reach.extend(&self.reach[first..end]);
        let within = |&row: &u32| (first..end).contains(&(row as usize));
        let outputs = self.outputs.iter().copied().filter(within);
        part.outputs.extend(outputs.map(|row| row - first as u32));
        for (&row, &slots) in self.moved_before.iter().zip(&self.moves) {
            if within(&row) {
                part.moved_before.push(row - first as u32);
                part.moves.push(slots);
            }
        }
        let mut reach = self.reach[first..end].iter();
        for rows in self.map[first..end].chunk_by(|a, b| a.page_start == b.page_start) {
            // Rows of one sequence share its pages.
            let from = rows[0].page_start as usize;
            let pages = reach.by_ref().take(rows.len()).max().map_or(0, |&pages| pages as usize);
            let page_start = part.pages.len() as u32;
            part.pages.extend(&self.pages[from..from + pages]);
            for row in rows {
                let path = row.path_start as usize;
                let path_start = part.path.len() as u32;
                part.path.extend(&self.path[path..path + (row.length - row.prefix) as usize]);
                part.map.push(AttentionRow { page_start, path_start, ..*row });
            }
        }
    }

    /// Adds a span: a chunk of a prompt, or one decoded token. Rows of the cache are moved first, in the
    /// order of `moves`.
    pub fn push(&mut self, span: Span<'_>) {
        let Span { tokens, start, pages, logits, moves } = span;
        assert!(logits <= tokens.len());
        let page_start = self.begin(pages, start + tokens.len(), moves);
        self.plain(tokens, start, pages, page_start);
        let rows = self.tokens.len() as u32;
        self.outputs.extend(rows - logits as u32..rows);
        self.end(tokens.len(), moves);
    }

    /// Adds nodes of a draft tree. Their ancestors are among them, or were in an earlier pass.
    pub fn push_tree(&mut self, span: TreeSpan<'_>) {
        let TreeSpan { lead, tokens, paths, start, pages, outputs, moves } = span;
        let rows = paths.iter().flatten().max().map_or(1, |&row| row as usize + 1);
        let page_start = self.begin(pages, start + rows, moves);
        self.plain(lead, start - lead.len(), pages, page_start);
        let first = self.tokens.len();
        self.outputs.extend(outputs.iter().map(|&node| (first + node) as u32));
        for (&token, path) in tokens.iter().zip(paths) {
            assert!(path.len() <= TREE_DEPTH_MAX, "a tree of more than {TREE_DEPTH_MAX} levels");
            let path_start = self.path.len() as u32;
            self.path.extend(path.iter().map(|&row| slot(pages, start + row as usize)));
            let prefix = start as u32 + 1;
            let length = prefix + path.len() as u32;
            let own = start + path.last().map_or(0, |&row| row as usize);
            let end = start + 1 + path.iter().max().map_or(0, |&row| row as usize);
            let map = AttentionRow { page_start, prefix, path_start, length };
            self.row(token, slot(pages, own), map, end);
        }
        self.end(lead.len() + tokens.len(), moves);
    }

    /// Adds tokens that attend to all before them.
    fn plain(&mut self, tokens: &[u32], start: usize, pages: &[u32], page_start: u32) {
        for (position, &token) in (start..).zip(tokens) {
            let length = position as u32 + 1;
            let map = AttentionRow { page_start, prefix: length, path_start: 0, length };
            self.row(token, slot(pages, position), map, position + 1);
        }
    }

    /// Enters a sequence's pages up to position `end`, and moves.
    fn begin(&mut self, pages: &[u32], end: usize, moves: &[CacheMove]) -> u32 {
        let needed = pages_until(end).max(pages_moved(moves));
        assert!(pages.len() >= needed, "pages do not reach position {end}");
        let page_start = self.pages.len() as u32;
        self.pages.extend(&pages[..needed]);
        let row = self.tokens.len() as u32;
        self.moves.extend(moved_slots(pages, moves));
        self.moved_before.extend(moves.iter().map(|_| row));
        page_start
    }

    /// Adds a row that needs its sequence's pages up to position `end`.
    fn row(&mut self, token: u32, slot: u32, map: AttentionRow, end: usize) {
        self.tokens.push(token);
        self.positions.push(map.length - 1);
        self.slots.push(slot);
        self.map.push(map);
        self.reach.push(pages_until(end) as u32);
    }

    /// What is moved is in reach of the first of `rows` new rows.
    fn end(&mut self, rows: usize, moves: &[CacheMove]) {
        let first = self.reach.len() - rows;
        match self.reach.get_mut(first) {
            Some(reach) => *reach = (*reach).max(pages_moved(moves) as u32),
            None => assert!(moves.is_empty(), "moves come with a row"),
        }
    }
}

/// Cache slot of a position of a sequence.
fn slot(pages: &[u32], position: usize) -> u32 {
    pages[position / PAGE_LEN] * PAGE_LEN as u32 + (position % PAGE_LEN) as u32
}

fn pages_until(end: usize) -> usize {
    end.div_ceil(PAGE_LEN)
}

/// Pages of a sequence up to the last that is moved from or to.
fn pages_moved(moves: &[CacheMove]) -> usize {
    let last = moves.iter().map(|&(from, to)| from.max(to)).max();
    last.map_or(0, |last| pages_until(last as usize + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span<'a>(tokens: &'a [u32], start: usize, pages: &'a [u32]) -> Span<'a> {
        Span { tokens, start, pages, logits: 1, moves: &[] }
    }

    #[test]
    fn a_span_maps_positions_to_its_pages() {
        let mut batch = Batch::default();
        batch.push(span(&[7], 3, &[9]));
        batch.push(span(&[1, 2, 3], 15, &[4, 2]));
        assert_eq!(batch.slots, [9 * 16 + 3, 4 * 16 + 15, 2 * 16, 2 * 16 + 1]);
        assert_eq!(batch.outputs, [0, 3]);
        assert_eq!(batch.pages, [9, 4, 2]);
        assert_eq!(batch.map[3].page_start, 1);
        assert_eq!(batch.map[3].length, 18);
    }

    #[test]
    fn micro_batches_see_what_the_batch_sees() {
        let mut batch = Batch::default();
        batch.push(span(&[7], 3, &[9]));
        batch.push(span(&[1, 2, 3], 15, &[4, 2]));
        // A tree whose rows 1, 2, 15, 16 are two chains below the root; two rows are moved first.
        batch.push_tree(TreeSpan {
            lead: &[],
            tokens: &[5, 6, 7, 8, 9],
            paths: &[vec![], vec![1], vec![2], vec![1, 15], vec![1, 15, 16]],
            start: 31,
            pages: &[6, 7, 8],
            outputs: &[0, 4],
            moves: &[(33, 32), (46, 33)],
        });
        assert_eq!(batch.positions[4..], [31, 32, 32, 33, 34]);
        assert_eq!(batch.slots[4..], [7 * 16 + 15, 8 * 16, 8 * 16 + 1, 8 * 16 + 14, 8 * 16 + 15]);
        let seen = |batch: &Batch| -> Vec<Vec<u32>> {
            let row = |row: &AttentionRow| {
                let page = |p: u32| batch.pages[(row.page_start + p / 16) as usize] * 16 + p % 16;
                let paged = (0..row.prefix).map(page);
                let path = (row.prefix..row.length).map(|p| p - row.prefix + row.path_start);
                paged.chain(path.map(|at| batch.path[at as usize])).collect()
            };
            batch.map.iter().map(row).collect()
        };
        for (rows, pages) in (1..10).flat_map(|rows| (3..7).map(move |pages| (rows, pages))) {
            let parts = batch.split(rows, pages);
            assert!(parts.iter().all(|p| p.rows() <= rows && p.pages.len() <= pages));
            assert_eq!(parts.iter().flat_map(seen).collect::<Vec<_>>(), seen(&batch));
            let tokens: Vec<u32> = parts.iter().flat_map(|p| p.tokens.clone()).collect();
            assert_eq!(tokens, batch.tokens);
            let outputs: usize = parts.iter().map(|p| p.outputs.len()).sum();
            assert_eq!(outputs, 4);
            let moves: Vec<[u32; 2]> = parts.iter().flat_map(Batch::moves).copied().collect();
            assert_eq!(moves, batch.moves());
            assert_eq!(moves, [[129, 128], [142, 129]]);
            for part in &parts {
                // Whatever is touched lies in a page of the part's own.
                let (slots, path, moves) = part.windowed();
                let all = slots.iter().chain(&path).chain(moves.iter().flatten());
                assert!(all.max().is_none_or(|slot| *slot < 16 * part.pages.len() as u32));
                assert!(part.pages_written().iter().all(|page| part.pages.contains(page)));
            }
        }
        assert_eq!(batch.split(2, 9)[1].outputs, [1]);
    }
}
