//! Verification: which tokens the target chooses along the trees of a pass.
//!
//! A token is chosen from the target's logits at a node as it would be without trees; where the tree has
//! that token, its node's logits are known from the same pass (SpecExec's "cache of distributions"). So
//! what comes out is what plain decoding says, whatever the trees hold.

use super::FinishReason;
use super::sequence::Sequence;
use crate::exec::{ExecError, Executor};
use crate::sample::for_rows;
use crate::schedule::Batch;
use crate::speculate::{Tree, Walk};
use crate::tokenizer::Tokenizer;
use forebay_planner::AHEAD;

/// A descendant is looked at together with the node where the path stands if it is as likely as this.
const AHEAD_LEAST: f32 = 0.4;

/// A sequence's way through its tree.
pub(super) struct Follow<'a> {
    /// Index among the active sequences.
    pub(super) sequence: usize,
    /// Row of its root in the pass, and whether that is all that the pass computes of the sequence itself.
    pub(super) root_row: usize,
    pub(super) alone: bool,
    pub(super) walk: Walk<'a>,
    pub(super) tree: &'a Tree,
    /// Why the sequence ended, if it did.
    pub(super) finish: Option<FinishReason>,
    /// Tokens chosen.
    pub(super) chosen: usize,
}

impl<'a> Follow<'a> {
    pub(super) fn new(
        (sequence, root_row): (usize, usize),
        alone: bool,
        tree: &'a Tree,
    ) -> Follow<'a> {
        let walk = Walk::new(tree);
        Follow { sequence, root_row, alone, walk, tree, finish: None, chosen: 0 }
    }

    /// Nodes whose logits are wanted next.
    pub(super) fn wanted(&self) -> Vec<usize> {
        self.walk.ahead(AHEAD, AHEAD_LEAST)
    }

    /// Goes on as far as these nodes' logits `[nodes][vocab]` reach.
    fn take(
        &mut self,
        nodes: &[(usize, usize)],
        logits: &[f32],
        mut choose: impl FnMut(&[f32]) -> Result<u32, FinishReason>,
    ) {
        for (&(_, node), logits) in
            nodes.iter().zip(logits.chunks_exact(logits.len() / nodes.len()))
        {
            if self.walk.ended() || self.walk.node() != node {
                continue;
            }
            self.chosen += 1;
            match choose(logits) {
                Ok(token) => {
                    self.walk.step(token);
                }
                Err(finish) => {
                    self.finish = Some(finish);
                    self.walk.end();
                }
            }
        }
    }
}

/// What tokens are chosen with.
#[derive(Clone, Copy)]
pub(super) struct Choice<'t> {
    pub(super) tokenizer: &'t Tokenizer,
    pub(super) context_len: usize,
    /// Logits of a row.
    pub(super) vocab: usize,
    /// Tokens that there are: a model may have more logits, which stand for nothing.
    pub(super) known: usize,
}

/// Runs the pass and follows all trees to where they end; returns rows whose logits were computed.
/// `batch.outputs` are the nodes that each of `follows` wants first, in order.
pub(super) fn follow_all<'t>(
    executor: &mut Executor,
    batch: &Batch,
    active: &mut [Sequence<'t>],
    follows: &mut [Follow<'_>],
    choice: Choice<'t>,
) -> Result<usize, ExecError> {
    let mut asked = wanted(follows);
    let mut outputs = asked.len();
    executor.pass(batch, &mut |first, logits| {
        let count = logits.len() / choice.vocab;
        take_all(active, follows, &asked[first..first + count], logits, choice);
    })?;
    loop {
        asked = wanted(follows);
        if asked.is_empty() {
            return Ok(outputs);
        }
        outputs += asked.len();
        let row = |&(follow, node): &(usize, usize)| follows[follow].root_row + node;
        let rows: Vec<usize> = asked.iter().map(row).collect();
        executor.logits_of(&rows, &mut |first, logits| {
            let count = logits.len() / choice.vocab;
            take_all(active, follows, &asked[first..first + count], logits, choice);
        })?;
    }
}

/// Nodes whose logits are wanted next: (index into `follows`, node).
fn wanted(follows: &[Follow<'_>]) -> Vec<(usize, usize)> {
    let each = follows.iter().enumerate();
    each.flat_map(|(at, follow)| follow.wanted().into_iter().map(move |node| (at, node))).collect()
}

/// Hands out logits `[asked][vocab]`, sequences beside each other.
fn take_all<'t>(
    active: &mut [Sequence<'t>],
    follows: &mut [Follow<'_>],
    asked: &[(usize, usize)],
    logits: &[f32],
    choice: Choice<'t>,
) {
    let mut sequences = active.iter_mut().enumerate();
    let mut walks = follows.iter_mut().enumerate();
    let (mut items, mut rest) = (Vec::new(), logits);
    for nodes in asked.chunk_by(|a, b| a.0 == b.0) {
        let (_, follow) = walks.find(|(at, _)| *at == nodes[0].0).expect("follows are in order");
        let index = follow.sequence;
        let (_, sequence) = sequences.find(|(at, _)| *at == index).expect("sequences are in order");
        let (own, others) = rest.split_at(nodes.len() * choice.vocab);
        rest = others;
        items.push(((follow, sequence, nodes), own));
    }
    for_rows(items, |sampler, (follow, sequence, nodes), logits| {
        follow.take(nodes, logits, |logits| {
            let logits = &logits[..choice.known.min(logits.len())];
            match sequence.advance(logits, sampler, choice.tokenizer, choice.context_len) {
                Some(finish) => Err(finish),
                None => Ok(sequence.newest()),
            }
        });
    });
}
