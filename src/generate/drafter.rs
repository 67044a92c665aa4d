//! What grows draft trees for the sequences of a pass: a smaller model, the target's own resident layers,
//! or what a sequence said before.

use crate::exec::{ExecError, Executor};
use crate::sample::SamplingParams;
use crate::schedule::{CacheMove, PagePool};
use crate::speculate::{
    Forest, GrowthLimits, PUBLISHED_ACCEPTANCE, Sharpness, StaticTree, Tree, commit_moves,
};
use std::time::Duration;

/// A sequence as a drafter sees it.
#[derive(Clone, Copy, Debug)]
pub struct Draftable<'a> {
    /// Its name among all sequences of an engine.
    pub key: u64,
    /// Prompt and output so far; the last is the root of its tree.
    pub tokens: &'a [u32],
    /// Its pages in the target's cache, enough for the root, and how many positions are computed there.
    pub pages: &'a [u32],
    /// See above.
    pub computed: usize,
    /// How its tokens are chosen.
    pub sampling: &'a SamplingParams,
    /// Its index among the choices of one prompt.
    pub choice: u32,
    /// Levels that a tree may have: tokens that may still be generated, less the one that comes anyway.
    pub depth: usize,
}

impl Draftable<'_> {
    /// Position of the root.
    pub fn root(&self) -> usize {
        self.tokens.len() - 1
    }
}

/// What came of a tree.
#[derive(Clone, Copy, Debug)]
pub struct Followed<'a> {
    /// The sequence's name.
    pub key: u64,
    /// Whether its tokens are chosen with noise.
    pub noisy: bool,
    /// Position of the root.
    pub root: usize,
    /// The tree that was verified.
    pub tree: &'a Tree,
    /// Its nodes that were accepted, from depth 1 on.
    pub path: &'a [usize],
    /// The token that came after them.
    pub next: u32,
}

/// Moves that bring a tree's accepted `rows` to their places behind its `root`, and the position up to which
/// the cache is needed until they are made.
pub(super) fn accepted(root: usize, rows: &[usize]) -> (Vec<CacheMove>, usize) {
    let start = root as u32;
    let moves = commit_moves(rows).into_iter().map(|(from, to)| (start + from, start + to));
    let moves: Vec<CacheMove> = moves.collect();
    let moved = moves.iter().map(|&(from, _)| from as usize + 1).max();
    (moves, (root + 1 + rows.len()).max(moved.unwrap_or(0)))
}

/// What the target lends a drafter while trees grow.
pub struct Target<'a> {
    /// It runs the target.
    pub executor: &'a mut Executor,
    /// Pages of its cache.
    pub pool: &'a mut PagePool,
}

/// How far a tree's growth has come.
#[derive(Clone, Copy, Debug)]
pub struct Growth {
    /// Tokens expected of the trees as they are, beside those that come anyway.
    pub expected: f64,
    /// What the next round may add to them.
    pub next: f64,
    /// Time of all rounds so far, prompts that the draft had to read first left out.
    pub spent: Duration,
    /// What a round takes, by those of late.
    pub round: Duration,
}

/// How trees are to grow.
pub struct GrowthPlan<'a> {
    /// How far.
    pub limits: GrowthLimits,
    /// The shape that all trees take, or none: then each follows what the draft is sure of.
    pub shape: Option<StaticTree>,
    /// Before each round but the first, whether another is worth its time.
    pub goes_on: &'a dyn Fn(Growth) -> bool,
}

impl GrowthPlan<'_> {
    /// Trees of nothing but roots, to grow by this plan.
    pub fn forest(&self, roots: &[u32]) -> Forest {
        match &self.shape {
            Some(shape) => Forest::with_shape(roots, shape.clone()),
            None => Forest::new(roots, self.limits),
        }
    }
}

/// What a drafter cannot do.
#[derive(Debug, thiserror::Error)]
#[error("the draft: {0}")]
pub struct DraftError(#[from] pub ExecError);

/// Grows trees; learns from what came of them.
pub trait Drafter {
    /// One tree for each sequence.
    fn grow(
        &mut self,
        target: &mut Target<'_>,
        sequences: &[Draftable<'_>],
        plan: &GrowthPlan<'_>,
    ) -> Result<Vec<Tree>, DraftError>;

    /// Whether it computes in the target's own cache: then what was accepted has to be in its place there, and
    /// sequences of whose prompts a part is not computed have no trees.
    fn uses_target(&self) -> bool {
        false
    }

    /// Says what came of a tree of the last [`Drafter::grow`].
    fn followed(&mut self, what: &Followed<'_>);

    /// Says that a sequence has ended.
    fn forget(&mut self, key: u64);

    /// Whether the last growth had much to read first, prompts or what was said while trees paused: its time
    /// is not that of a growth.
    fn caught_up(&self) -> bool {
        false
    }

    /// Seconds of the last growth on the event clock; 0 where nothing is simulated.
    fn simulated(&self) -> f64 {
        0.0
    }

    /// How often the draft's first, second… choice was what came next (Sequoia's positional acceptance).
    fn acceptance(&self) -> Vec<f64> {
        PUBLISHED_ACCEPTANCE.to_vec()
    }

    /// How far its scores of greedy and of sampled sequences are to be trusted, by what it has seen.
    fn sharpness(&self) -> Option<[Sharpness; 2]> {
        None
    }

    /// Most bytes that it has held on a device of its own whose memory is of the kind that the target's is: 0
    /// for a draft that the processor computes beside a GPU, which holds RAM.
    fn device_bytes_peak(&self, target: &Executor) -> u64 {
        let _ = target;
        0
    }

    /// Rounds of growth so far, and nodes that were expanded.
    fn work(&self) -> DraftWork {
        DraftWork::default()
    }
}

/// What drafting took so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DraftWork {
    /// Rounds of growth in which something was expanded.
    pub rounds: u64,
    /// Nodes that were expanded.
    pub rows: u64,
    /// Nodes that could not be, for want of room in the draft's cache or of their tokens in its vocabulary.
    pub refused: u64,
}
