//! The target as a draft of itself: its layers that are at hand, over its own cache (after LayerSkip,
//! arXiv 2404.16710, and SubSpec, arXiv 2509.18344). It needs no second model or cache and reads no prompt:
//! what is before a root the target has computed. Rows of trees lie behind that: the target's pass writes over
//! those that it has rows for, and nothing ever sees the others. Pages that they take beyond the sequence's own
//! are given back as soon as trees are grown.

use super::draft_passes::DraftPasses;
use super::drafter::{Draftable, Followed, Target};
use crate::exec::ExecError;
use crate::kernel::PAGE_LEN;
use crate::schedule::{Batch, Span};
use std::collections::HashMap;

/// See the module.
#[derive(Default)]
pub(super) struct TargetLayers {
    /// The pages of each sequence and of its tree, and how many are the sequence's.
    tables: HashMap<u64, (Vec<u32>, usize)>,
}

impl DraftPasses for TargetLayers {
    fn vocab(&self, target: &Target<'_>) -> usize {
        target.executor.spec().vocab
    }

    fn rows(&self, target: &Target<'_>) -> usize {
        target.executor.resident_rows()
    }

    fn computed(&self, sequence: &Draftable<'_>) -> usize {
        sequence.computed
    }

    fn catch_up(
        &mut self,
        _: &mut Target<'_>,
        sequence: &Draftable<'_>,
        _: &[Draftable<'_>],
    ) -> Result<Option<f64>, ExecError> {
        let table = (sequence.pages.to_vec(), sequence.pages.len());
        self.tables.insert(sequence.key, table);
        Ok((sequence.computed == sequence.root()).then_some(0.0))
    }

    fn reserve(
        &mut self,
        target: &mut Target<'_>,
        sequence: &Draftable<'_>,
        end: usize,
        _: &[Draftable<'_>],
    ) -> bool {
        let table = self.tables.get_mut(&sequence.key);
        table.is_some_and(|(pages, _)| target.pool.grow(pages, end.div_ceil(PAGE_LEN)))
    }

    fn enter(&mut self, sequence: &Draftable<'_>, batch: &mut Batch) {
        let (tokens, start) = (&sequence.tokens[sequence.root()..], sequence.root());
        batch.push(Span { tokens, start, pages: self.pages(sequence), logits: 1, moves: &[] });
    }

    fn pages(&self, sequence: &Draftable<'_>) -> &[u32] {
        self.tables.get(&sequence.key).map_or(&[], |(pages, _)| pages)
    }

    fn run(
        &mut self,
        target: &mut Target<'_>,
        batch: &Batch,
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<f64, ExecError> {
        target.executor.resident_pass(batch, each)
    }

    fn grown(&mut self, target: &mut Target<'_>) {
        for (_, (mut pages, own)) in self.tables.drain() {
            target.pool.shrink(&mut pages, own);
        }
    }

    fn accepted(&mut self, _: &Followed<'_>, _: &[usize]) {}

    fn forget(&mut self, _: u64) {}

    fn uses_target(&self) -> bool {
        true
    }
}
