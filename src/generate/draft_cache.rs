//! A model of its own as a draft, with a cache of its own. What was accepted of the rows of its trees moves
//! to its place with the sequence's next pass, and what was accepted without being computed is computed
//! then: the cache has no holes.

use super::draft_passes::DraftPasses;
use super::drafter::{Draftable, Followed, Target, accepted};
use crate::exec::{ExecError, Executor};
use crate::kernel::PAGE_LEN;
use crate::schedule::{Batch, CacheMove, PagePool, Span};
use std::collections::HashMap;

/// What the draft has of one sequence.
#[derive(Default)]
struct Own {
    pages: Vec<u32>,
    /// Positions whose keys and values are in the cache.
    computed: usize,
    /// Rows of the cache to be moved before the next pass.
    moves: Vec<CacheMove>,
}

/// See the module.
pub(super) struct OwnCache {
    executor: Executor,
    pool: PagePool,
    own: HashMap<u64, Own>,
}

impl OwnCache {
    pub(super) fn new(executor: Executor) -> OwnCache {
        let pool = PagePool::new(executor.config().pages);
        OwnCache { executor, pool, own: HashMap::new() }
    }
}

impl DraftPasses for OwnCache {
    fn vocab(&self, _: &Target<'_>) -> usize {
        self.executor.spec().vocab
    }

    fn rows(&self, _: &Target<'_>) -> usize {
        self.executor.config().rows
    }

    fn computed(&self, sequence: &Draftable<'_>) -> usize {
        self.own.get(&sequence.key).map_or(0, |own| own.computed)
    }

    fn catch_up(
        &mut self,
        target: &mut Target<'_>,
        sequence: &Draftable<'_>,
        all: &[Draftable<'_>],
    ) -> Result<Option<f64>, ExecError> {
        let (end, mut simulated) = (sequence.tokens.len(), 0.0);
        if end > self.executor.config().positions || !self.reserve(target, sequence, end, all) {
            return Ok(None);
        }
        let rows = self.executor.config().rows;
        let own = self.own.entry(sequence.key).or_default();
        // Its root is computed again where nothing came of the last tree.
        own.computed = own.computed.min(end - 1);
        while end - own.computed > rows {
            let next = own.computed + rows;
            let mut batch = Batch::default();
            let tokens = &sequence.tokens[own.computed..next];
            let (start, moves) = (own.computed, &own.moves[..]);
            batch.push(Span { tokens, start, pages: &own.pages, logits: 0, moves });
            self.executor.pass(&batch, &mut |_, _| {})?;
            simulated += self.executor.simulated_seconds();
            own.moves.clear();
            own.computed = next;
        }
        Ok(Some(simulated))
    }

    fn reserve(
        &mut self,
        _: &mut Target<'_>,
        sequence: &Draftable<'_>,
        end: usize,
        all: &[Draftable<'_>],
    ) -> bool {
        let count = end.div_ceil(PAGE_LEN);
        loop {
            let own = self.own.entry(sequence.key).or_default();
            if self.pool.grow(&mut own.pages, count) {
                return true;
            }
            let other = |key: &&u64| all.iter().all(|sequence| sequence.key != **key);
            let Some(&idle) = self.own.keys().filter(other).min() else { return false };
            self.forget(idle);
        }
    }

    fn enter(&mut self, sequence: &Draftable<'_>, batch: &mut Batch) {
        let own = self.own.entry(sequence.key).or_default();
        let (tokens, start) = (&sequence.tokens[own.computed..], own.computed);
        batch.push(Span { tokens, start, pages: &own.pages, logits: 1, moves: &own.moves });
        own.computed = sequence.tokens.len();
        own.moves.clear();
    }

    fn pages(&self, sequence: &Draftable<'_>) -> &[u32] {
        self.own.get(&sequence.key).map_or(&[], |own| &own.pages)
    }

    fn run(
        &mut self,
        _: &mut Target<'_>,
        batch: &Batch,
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<f64, ExecError> {
        self.executor.pass(batch, each)?;
        Ok(self.executor.simulated_seconds())
    }

    fn grown(&mut self, _: &mut Target<'_>) {}

    fn accepted(&mut self, what: &Followed<'_>, rows: &[usize]) {
        let Some(own) = self.own.get_mut(&what.key) else { return };
        let (moves, end) = accepted(what.root, rows);
        (own.moves, own.computed) = (moves, what.root + 1 + rows.len());
        self.pool.shrink(&mut own.pages, end.div_ceil(PAGE_LEN));
    }

    fn forget(&mut self, key: u64) {
        if let Some(mut own) = self.own.remove(&key) {
            self.pool.release(&mut own.pages);
        }
    }

    fn device_bytes_peak(&self, target: &Executor) -> u64 {
        let beside = self.executor.shares_ram() == target.shares_ram();
        if beside { self.executor.memory().bytes_peak } else { 0 }
    }
}
