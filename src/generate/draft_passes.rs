//! What differs between drafts that are models: where their passes run and their rows lie.

use super::drafter::{Draftable, Followed, Target};
use crate::exec::{ExecError, Executor};
use crate::schedule::Batch;

/// Where a draft's passes run and the rows of its trees lie: the so-many-th node of a tree that it computes
/// lies in a cache behind its sequence's positions.
pub(super) trait DraftPasses {
    /// Tokens that the draft has.
    fn vocab(&self, target: &Target<'_>) -> usize;

    /// Rows of a pass at most.
    fn rows(&self, target: &Target<'_>) -> usize;

    /// Positions of a sequence whose keys and values are there.
    fn computed(&self, sequence: &Draftable<'_>) -> usize;

    /// Gets ready to compute the root of a sequence in a pass, with what is missing before it. Returns the
    /// seconds of passes by the event clock, or `None` if there is no room.
    fn catch_up(
        &mut self,
        target: &mut Target<'_>,
        sequence: &Draftable<'_>,
        all: &[Draftable<'_>],
    ) -> Result<Option<f64>, ExecError>;

    /// Gets pages for `end` positions of a sequence, if need be from those that take no part.
    fn reserve(
        &mut self,
        target: &mut Target<'_>,
        sequence: &Draftable<'_>,
        end: usize,
        all: &[Draftable<'_>],
    ) -> bool;

    /// Adds a sequence's root to a batch, with what is missing before it.
    fn enter(&mut self, sequence: &Draftable<'_>, batch: &mut Batch);

    /// The pages of a sequence.
    fn pages(&self, sequence: &Draftable<'_>) -> &[u32];

    /// Runs a pass; returns its seconds by the event clock.
    fn run(
        &mut self,
        target: &mut Target<'_>,
        batch: &Batch,
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<f64, ExecError>;

    /// Says that all trees are grown.
    fn grown(&mut self, target: &mut Target<'_>);

    /// Says that of a tree, whose root was computed, these rows were accepted.
    fn accepted(&mut self, what: &Followed<'_>, rows: &[usize]);

    /// Says that a sequence has ended.
    fn forget(&mut self, key: u64);

    /// See [`Drafter::uses_target`].
    fn uses_target(&self) -> bool {
        false
    }

    /// See [`Drafter::device_bytes_peak`].
    fn device_bytes_peak(&self, target: &Executor) -> u64 {
        let _ = target;
        0
    }
}
