//! One pass of an engine: trees, rows, tokens, and what becomes of them.

use super::FinishReason;
use super::drafter::{Draftable, Followed, Target, accepted};
use super::engine::{Engine, EngineError, Share};
use super::follow::{Choice, Follow, follow_all};
use super::sequence::Sequence;
use super::speculation::Passed;
use crate::exec::{ExecError, Executor};
use crate::kernel::PAGE_LEN;
use crate::schedule::{Span, TreeSpan, moved_slots};
use crate::speculate::Tree;
use std::time::{Duration, Instant};

impl Engine<'_> {
    /// A draft tree for every share that completes its sequence's tokens, as far as the cache has room.
    pub(super) fn draft(&mut self, shares: &[Share]) -> Result<Vec<Tree>, EngineError> {
        let Engine { active, pool, config, executor, .. } = self;
        let whole = || shares.iter().filter(|share| share.whole);
        let Some(speculation) = &mut self.speculation else {
            return Ok(whole().map(|s| Tree::new(active[s.sequence].newest())).collect());
        };
        let start = Instant::now();
        let in_target = speculation.uses_target();
        if speculation.computes_beside() {
            executor.fill_ahead()?;
        }
        if in_target {
            settle(executor, active, shares)?;
        }
        let draftable = |share: &Share| {
            let sequence = active[share.sequence].draftable(config.context_len);
            let ready = !in_target || share.rows == 1;
            Draftable { depth: if ready { sequence.depth } else { 0 }, ..sequence }
        };
        let sequences: Vec<Draftable<'_>> = whole().map(draftable).collect();
        let rows: usize = shares.iter().map(|share| share.rows).sum();
        let mut target = Target { executor, pool };
        let mut trees = speculation.grow(&mut target, &sequences, rows - sequences.len());
        executor.idle(speculation.last.1);
        executor.note(start, || format!("grow {}", told(&trees)));
        for (share, tree) in whole().zip(&mut trees) {
            let sequence = &mut active[share.sequence];
            let end = sequence.tokens.len();
            // What is here already, and what is free: no sequence gives way to a tree.
            let room = (sequence.pages.len() + pool.available()) * PAGE_LEN - end;
            if tree.size() > room {
                *tree = tree.trimmed(room);
            }
            let pages = (end + tree.size()).div_ceil(PAGE_LEN);
            assert!(pool.grow(&mut sequence.pages, pages), "trees are cut to what is free");
        }
        Ok(trees)
    }

    /// Puts the shares' rows into the batch; returns the way through each tree.
    fn enter<'a>(&mut self, shares: &[Share], trees: &'a [Tree]) -> Vec<Follow<'a>> {
        self.batch.clear();
        let (mut follows, mut trees) = (Vec::new(), trees.iter());
        for share in shares {
            let sequence = &mut self.active[share.sequence];
            let (start, end) = (sequence.computed, sequence.computed + share.rows);
            let (pages, moves) = (&sequence.pages[..], &sequence.moves[..]);
            match if share.whole { trees.next() } else { None } {
                None => {
                    let tokens = &sequence.tokens[start..end];
                    self.batch.push(Span { tokens, start, pages, logits: 0, moves });
                }
                Some(tree) => {
                    let root_row = self.batch.rows() + share.rows - 1;
                    let follow = Follow::new((share.sequence, root_row), share.rows == 1, tree);
                    let row = |node: usize| node as u32;
                    let path = |node| tree.path(node).into_iter().map(row).collect();
                    let tokens: Vec<u32> = tree.nodes().iter().map(|node| node.token).collect();
                    self.batch.push_tree(TreeSpan {
                        lead: &sequence.tokens[start..end - 1],
                        tokens: &tokens,
                        paths: &(0..tree.len()).map(path).collect::<Vec<_>>(),
                        start: end - 1,
                        pages,
                        outputs: &follow.wanted(),
                        moves,
                    });
                    follows.push(follow);
                }
            }
            sequence.moves.clear();
        }
        follows
    }

    /// Runs the pass and chooses tokens along the trees; returns the sequences that ended, with their
    /// reasons.
    pub(super) fn run_pass(
        &mut self,
        shares: &[Share],
        trees: &[Tree],
        start: Instant,
    ) -> Result<Vec<(usize, FinishReason)>, EngineError> {
        let mut follows = self.enter(shares, trees);
        let choice = Choice {
            tokenizer: self.tokenizer,
            context_len: self.config.context_len,
            vocab: self.executor.spec().vocab,
            known: self.tokenizer.vocab_len(),
        };
        let Engine { executor, active, batch, .. } = self;
        let began = Instant::now();
        let outputs = follow_all(executor, batch, active, &mut follows, choice)?;
        let took = began.elapsed();
        for share in shares.iter().filter(|share| !share.whole) {
            active[share.sequence].computed += share.rows;
        }
        for follow in &follows {
            self.commit(follow);
        }
        let chosen: usize = follows.iter().map(|follow| follow.chosen).sum();
        if let Some(speculation) = &mut self.speculation {
            let predicted = speculation.predicted(self.batch.rows());
            self.executor.note(began, || verified(trees, &follows, predicted, took));
            let prompt = shares.iter().filter(|s| s.prompt).map(|s| s.rows).sum();
            let passed = Passed {
                rows: self.batch.rows(),
                prompt,
                outputs,
                sequences: follows.len(),
                tokens: chosen,
                took,
            };
            speculation.passed(&passed);
        }
        self.count(shares, chosen, start.elapsed());
        let ends = follows.iter().filter_map(|follow| Some((follow.sequence, follow.finish?)));
        Ok(ends.collect())
    }

    /// What was accepted of a tree becomes part of its sequence.
    fn commit(&mut self, follow: &Follow<'_>) {
        let sequence = &mut self.active[follow.sequence];
        let (path, ended) = (follow.walk.path(), follow.finish.is_some());
        // The newest token of a sequence that goes on is not computed, nor is one that came after the path.
        let root = sequence.tokens.len().saturating_sub(path.len() + 2);
        if let Some(speculation) = &mut self.speculation
            && (follow.alone || !speculation.uses_target())
        {
            let what = Followed {
                key: sequence.key,
                noisy: sequence.is_noisy(),
                root,
                tree: follow.tree,
                path,
                next: sequence.newest(),
            };
            speculation.followed(&what, ended);
        }
        if !ended {
            let (moves, end) = accepted(root, path);
            (sequence.moves, sequence.computed) = (moves, sequence.tokens.len() - 1);
            // What a tree took beyond its accepted rows is free again, but for the next token's place.
            let end = end.max(sequence.tokens.len());
            self.pool.shrink(&mut sequence.pages, end.div_ceil(PAGE_LEN));
        }
    }

    /// Counts a pass that chose `tokens`.
    fn count(&mut self, shares: &[Share], tokens: usize, elapsed: Duration) {
        let prompt: usize = shares.iter().filter(|s| s.prompt).map(|s| s.rows).sum();
        let share = prompt as f64 / self.batch.rows() as f64;
        let draft = self.speculation.as_ref().map_or((Duration::ZERO, 0.0), |s| s.last);
        let simulated = self.executor.simulated_seconds();
        let prefill = (elapsed - draft.0).mul_f64(share);
        let stats = &mut self.stats;
        stats.simulated_prefill += simulated * share;
        stats.simulated_decode += simulated * (1.0 - share) + draft.1;
        stats.passes += 1;
        stats.prompt_tokens += prompt as u64;
        stats.generated_tokens += tokens as u64;
        stats.prefill += prefill;
        stats.decode += elapsed - prefill;
    }
}

/// Brings what was accepted of trees to its place at once, where it otherwise goes with the coming pass.
fn settle(
    executor: &mut Executor,
    active: &mut [Sequence<'_>],
    shares: &[Share],
) -> Result<(), ExecError> {
    let mut moves = Vec::new();
    for share in shares {
        let sequence = &mut active[share.sequence];
        moves.extend(moved_slots(&sequence.pages, &sequence.moves));
        sequence.moves.clear();
    }
    executor.move_rows(&moves)
}

/// What came of the trees of a pass, in a line.
fn verified(
    trees: &[Tree],
    follows: &[Follow<'_>],
    predicted: Option<f64>,
    took: Duration,
) -> String {
    let chosen: usize = follows.iter().map(|follow| follow.chosen).sum();
    let depth = |follow: &Follow<'_>| follow.walk.path().len();
    let deepest = follows.iter().map(depth).max().unwrap_or(0);
    let accepted = |at: usize| follows.iter().filter(|follow| depth(follow) >= at).count();
    let by_depth: Vec<String> = (1..=deepest).map(|at| accepted(at).to_string()).collect();
    let by_depth = match by_depth.is_empty() {
        true => "none accepted".to_string(),
        false => format!("accepted by depth {}", by_depth.join(" ")),
    };
    let predicted =
        predicted.map_or(String::new(), |seconds| format!(", {seconds:.3} s predicted"));
    let (trees, took) = (told(trees), took.as_secs_f64());
    format!("verify {trees}: {chosen} tokens, {by_depth}{predicted}, {took:.3} s")
}

/// Trees in a few words.
fn told(trees: &[Tree]) -> String {
    let nodes: usize = trees.iter().map(Tree::size).sum();
    let height = trees.iter().map(Tree::height).max().unwrap_or(0);
    format!("{} trees of {nodes} nodes, up to {height} high", trees.len())
}
