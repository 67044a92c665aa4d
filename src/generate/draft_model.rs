//! A smaller model of the same vocabulary as a drafter: best-first growth with one pass of the draft for
//! each round, over all sequences (SpecExec, arXiv 2406.02532, algorithm 1).
//!
//! The draft has a cache of its own. The so-many-th node of a tree that it computes lies behind the
//! sequence's own positions; what is accepted of those moves to its place with the sequence's next pass,
//! and what was accepted without being computed is computed then: the cache has no holes.

use super::drafter::{
    DraftError, DraftWork, Draftable, Drafter, Followed, Growth, GrowthPlan, accepted,
};
use super::learned::DraftLearned;
use crate::exec::Executor;
use crate::kernel::PAGE_LEN;
use crate::sample::{NoiseKey, SamplingParams, draft_scores, for_rows};
use crate::schedule::{Batch, CacheMove, PagePool, Span, TreeSpan};
use crate::speculate::{Expand, Forest, Node, PUBLISHED_ACCEPTANCE, Sharpness, Tree};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Children that a node may have, and scores that sharpness is fitted to.
pub(super) const WIDTH: usize = 16;

/// What the draft has of one sequence.
#[derive(Default)]
struct Own {
    pages: Vec<u32>,
    /// Positions whose keys and values are in the cache.
    computed: usize,
    /// Rows of the cache to be moved before the next pass.
    moves: Vec<CacheMove>,
    /// Of each expansion of the tree under growth: the children it was given, or `None` where it could
    /// not be computed.
    expansions: Vec<Option<Vec<(u32, f32)>>>,
}

impl Own {
    fn expanded(&mut self, node: &Node, children: Option<Vec<(u32, f32)>>) {
        let Some(at) = node.expansion else { return };
        let at = at as usize;
        if self.expansions.len() <= at {
            self.expansions.resize(at + 1, None);
        }
        self.expansions[at] = children;
    }
}

/// See the module.
pub struct DraftModel {
    executor: Executor,
    /// Tokens that both models have: the first so many ids.
    vocab: usize,
    pool: PagePool,
    own: HashMap<u64, Own>,
    greedy: Sharpness,
    noisy: Sharpness,
    /// Whether trees of sampled sequences are built on the noise that sampling will use.
    shares_noise: bool,
    batch: Batch,
    /// Times that the draft's first, second… choice was what came next, and times in all.
    ranks: ([f64; WIDTH], f64),
    /// What a round takes, by those of late, and whether the last growth had much to read first.
    round: Duration,
    caught_up: bool,
    simulated: f64,
    work: DraftWork,
}

/// Choices that the published rates of acceptance count as.
const RANKS_PRIOR: f64 = 20.0;

/// Tokens that a sequence has accepted and the draft has not computed, at most, on average.
const UNSEEN: usize = 4;

impl DraftModel {
    /// A drafter over a loaded model, for a target of `vocab` tokens. With `shares_noise`, trees of sampled
    /// sequences are built on the noise of the target's own sampling: better guesses, the same answers.
    /// It starts with what was learned before.
    pub fn new(
        executor: Executor,
        vocab: usize,
        shares_noise: bool,
        learned: &DraftLearned,
    ) -> DraftModel {
        let at_first = if shares_noise { Sharpness::noisy() } else { Sharpness::greedy() };
        let known = learned.sharpness.clone();
        let [greedy, noisy] = known.unwrap_or_else(|| [Sharpness::greedy(), at_first]);
        DraftModel {
            vocab: vocab.min(executor.spec().vocab),
            pool: PagePool::new(executor.config().pages),
            executor,
            own: HashMap::new(),
            greedy,
            noisy,
            shares_noise,
            batch: Batch::default(),
            ranks: ([0.0; WIDTH], 0.0),
            round: Duration::ZERO,
            caught_up: false,
            simulated: 0.0,
            work: DraftWork::default(),
        }
    }

    /// Positions that the draft has not computed of each sequence, on average.
    fn unseen(&self, sequences: &[Draftable<'_>]) -> usize {
        let computed = |key: &u64| self.own.get(key).map_or(0, |own| own.computed);
        let all = sequences.iter().map(|s| s.tokens.len().saturating_sub(computed(&s.key)));
        all.sum::<usize>() / sequences.len().max(1)
    }

    /// Gets pages for `end` positions of a sequence, from sequences that take no part if need be.
    fn reserve(&mut self, key: u64, end: usize, taking_part: &[Draftable<'_>]) -> bool {
        let count = end.div_ceil(PAGE_LEN);
        loop {
            let own = self.own.entry(key).or_default();
            if self.pool.grow(&mut own.pages, count) {
                return true;
            }
            let other = |key: &&u64| taking_part.iter().all(|sequence| sequence.key != **key);
            let Some(&idle) = self.own.keys().filter(other).min() else { return false };
            self.forget(idle);
        }
    }

    /// Brings a sequence's cache up to its root, but for the last pass's worth of rows, which is left for
    /// the batch; false if there is no room.
    fn catch_up(
        &mut self,
        sequence: &Draftable<'_>,
        all: &[Draftable<'_>],
    ) -> Result<bool, DraftError> {
        let end = sequence.tokens.len();
        let foreign = |&token: &u32| token as usize >= self.vocab;
        if sequence.tokens.iter().any(foreign) {
            return Ok(false);
        }
        if end > self.executor.config().positions || !self.reserve(sequence.key, end, all) {
            return Ok(false);
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
            self.simulated += self.executor.simulated_seconds();
            own.moves.clear();
            own.computed = next;
        }
        Ok(true)
    }

    /// One round: the children of `round`'s nodes, in as many passes as it takes.
    fn expand(
        &mut self,
        sequences: &[Draftable<'_>],
        forest: &mut Forest,
        round: &[Expand],
    ) -> Result<(), DraftError> {
        let mut by_tree: Vec<Vec<Expand>> = vec![Vec::new(); sequences.len()];
        round.iter().for_each(|&at| by_tree[at.tree].push(at));
        let mut asked = Vec::new();
        self.batch.clear();
        for nodes in by_tree.into_iter().filter(|nodes| !nodes.is_empty()) {
            let sequence = &sequences[nodes[0].tree];
            for nodes in nodes.chunks(self.executor.config().rows) {
                let rows = match sequence.depth {
                    // Its next token is its last.
                    0 => None,
                    _ => self.rows_of(sequence, sequences, forest, nodes)?,
                };
                let Some(rows) = rows else {
                    self.refuse(sequence, forest, nodes);
                    continue;
                };
                if self.batch.rows() + rows > self.executor.config().rows {
                    self.run(sequences, forest, &mut asked)?;
                }
                self.enter(sequence, forest, nodes);
                asked.extend_from_slice(nodes);
            }
        }
        self.run(sequences, forest, &mut asked)?;
        self.work.rounds += 1;
        self.work.rows += round.len() as u64;
        Ok(())
    }

    /// Rows that nodes of one tree bring to a pass: a root comes with all that is not computed before it.
    /// `None` where there is no room for them.
    fn rows_of(
        &mut self,
        sequence: &Draftable<'_>,
        all: &[Draftable<'_>],
        forest: &Forest,
        nodes: &[Expand],
    ) -> Result<Option<usize>, DraftError> {
        if nodes[0].node == 0 {
            let there = self.catch_up(sequence, all)?;
            let computed = self.own.get(&sequence.key).map_or(0, |own| own.computed);
            return Ok(there.then(|| sequence.tokens.len() - computed));
        }
        let last = nodes.iter().filter_map(|&at| forest.node(at).expansion).max().unwrap_or(0);
        let end = sequence.root() + last as usize + 1;
        let there = self.reserve(sequence.key, end, all);
        Ok(there.then_some(nodes.len()))
    }

    /// Nodes that cannot be computed have no children.
    fn refuse(&mut self, sequence: &Draftable<'_>, forest: &mut Forest, nodes: &[Expand]) {
        self.work.refused += if sequence.depth > 0 { nodes.len() as u64 } else { 0 };
        let own = self.own.entry(sequence.key).or_default();
        for &at in nodes {
            own.expanded(forest.node(at), None);
            forest.expand(at, &[]);
        }
    }

    fn enter(&mut self, sequence: &Draftable<'_>, forest: &Forest, nodes: &[Expand]) {
        let own = self.own.entry(sequence.key).or_default();
        let pages = &own.pages[..];
        if nodes[0].node == 0 {
            let (tokens, start) = (&sequence.tokens[own.computed..], own.computed);
            let moves = &own.moves[..];
            self.batch.push(Span { tokens, start, pages, logits: 1, moves });
            own.computed = sequence.tokens.len();
            own.moves.clear();
            return;
        }
        let tokens: Vec<u32> = nodes.iter().map(|&at| forest.node(at).token).collect();
        let path = |&at: &Expand| forest.path_expansions(at)[1..].to_vec();
        let paths: Vec<Vec<u32>> = nodes.iter().map(path).collect();
        let outputs: Vec<usize> = (0..nodes.len()).collect();
        self.batch.push_tree(TreeSpan {
            lead: &[],
            tokens: &tokens,
            paths: &paths,
            start: sequence.root(),
            pages,
            outputs: &outputs,
            moves: &[],
        });
    }

    /// Runs what was entered; gives each of `asked` its children.
    fn run(
        &mut self,
        sequences: &[Draftable<'_>],
        forest: &mut Forest,
        asked: &mut Vec<Expand>,
    ) -> Result<(), DraftError> {
        if self.batch.rows() == 0 {
            return Ok(());
        }
        let vocab = self.executor.spec().vocab;
        let (shares_noise, common) = (self.shares_noise, self.vocab);
        let (mut scores, plain) = (Vec::with_capacity(asked.len()), SamplingParams::default());
        let DraftModel { executor, batch, .. } = self;
        executor.pass(batch, &mut |first, logits| {
            let nodes = &asked[first..first + logits.len() / vocab];
            let items = nodes.iter().copied().zip(logits.chunks_exact(vocab)).collect();
            scores.extend(for_rows(items, |_, at: Expand, logits| {
                let sequence = &sequences[at.tree];
                // The position of the children.
                let position = sequence.tokens.len() + forest.node(at).depth as usize;
                let noise = NoiseKey::new(sequence.sampling.seed, sequence.choice, position);
                // Without the target's noise the draft ranks by plain likelihood.
                let params = if shares_noise { sequence.sampling } else { &plain };
                draft_scores(params, &logits[..common], noise, WIDTH)
            }));
        })?;
        self.simulated += executor.simulated_seconds();
        for (&at, scores) in asked.iter().zip(scores) {
            let sequence = &sequences[at.tree];
            let raw: Vec<f32> = scores.iter().map(|&(_, score)| score).collect();
            let log_ps = self.trust(sequence.sampling.temperature > 0.0).log_ps(&raw);
            let tokens = scores.iter().map(|&(token, _)| token);
            let deep = forest.node(at).depth as usize >= sequence.depth;
            let children: Vec<(u32, f32)> =
                if deep { vec![] } else { tokens.zip(log_ps).collect() };
            let own = self.own.entry(sequence.key).or_default();
            own.expanded(forest.node(at), Some(scores));
            forest.expand(at, &children);
        }
        self.batch.clear();
        asked.clear();
        Ok(())
    }

    fn trust(&mut self, noisy: bool) -> &mut Sharpness {
        if noisy { &mut self.noisy } else { &mut self.greedy }
    }
}

impl Drafter for DraftModel {
    fn grow(
        &mut self,
        sequences: &[Draftable<'_>],
        plan: &GrowthPlan<'_>,
    ) -> Result<Vec<Tree>, DraftError> {
        self.simulated = 0.0;
        self.batch.clear();
        for sequence in sequences {
            self.own.entry(sequence.key).or_default().expansions.clear();
        }
        let roots: Vec<u32> = sequences.iter().map(|s| s.tokens[s.root()]).collect();
        let mut forest = plan.forest(&roots);
        // The first round, whose roots come with all that the draft has not seen of their sequences.
        let round = forest.next_round();
        self.caught_up = self.unseen(sequences) > UNSEEN;
        let start = Instant::now();
        self.expand(sequences, &mut forest, &round)?;
        let mut spent = if self.caught_up { self.round } else { start.elapsed() };
        loop {
            let round = forest.next_round();
            let (expected, next) = (forest.expected(), forest.promise(&round));
            let growth = Growth { expected, next, spent, round: self.round };
            if round.is_empty() || !(plan.goes_on)(growth) {
                return Ok(forest.finish());
            }
            let start = Instant::now();
            self.expand(sequences, &mut forest, &round)?;
            let took = start.elapsed();
            spent += took;
            self.round = if self.round.is_zero() { took } else { (3 * self.round + took) / 4 };
        }
    }

    fn followed(&mut self, what: &Followed<'_>) {
        let Some(own) = self.own.get_mut(&what.key) else { return };
        let nodes = what.tree.nodes();
        let computed = |node: usize| {
            let expansion = nodes[node].expansion?;
            let known = own.expansions.get(expansion as usize)?;
            known.as_ref().map(|scores| (expansion as usize, scores))
        };
        let rows: Vec<usize> =
            what.path.iter().map_while(|&node| computed(node)).map(|(row, _)| row).collect();
        let tokens = what.path.iter().map(|&node| nodes[node].token).chain([what.next]);
        let from = [0].into_iter().chain(what.path.iter().copied());
        let mut outcomes = Vec::new();
        for (node, token) in from.zip(tokens) {
            let Some((_, scores)) = computed(node) else { break };
            let raw: Vec<f32> = scores.iter().map(|&(_, score)| score).collect();
            outcomes.push((raw, scores.iter().position(|&(child, _)| child == token)));
        }
        if computed(0).is_some() {
            let (moves, end) = accepted(what.root, &rows);
            (own.moves, own.computed) = (moves, what.root + 1 + rows.len());
            self.pool.shrink(&mut own.pages, end.div_ceil(PAGE_LEN));
        }
        for rank in outcomes.iter().map(|(_, followed)| *followed) {
            rank.into_iter().for_each(|rank| self.ranks.0[rank] += 1.0);
            self.ranks.1 += 1.0;
        }
        let sharpness = self.trust(what.noisy);
        outcomes.iter().for_each(|(scores, followed)| sharpness.observe(scores, *followed));
    }

    fn forget(&mut self, key: u64) {
        if let Some(mut own) = self.own.remove(&key) {
            self.pool.release(&mut own.pages);
        }
    }

    fn caught_up(&self) -> bool {
        self.caught_up
    }

    fn simulated(&self) -> f64 {
        self.simulated
    }

    fn acceptance(&self) -> Vec<f64> {
        let (counts, all) = &self.ranks;
        let first = PUBLISHED_ACCEPTANCE.iter().map(|p| p * RANKS_PRIOR);
        let rates = counts.iter().zip(first).map(|(count, prior)| count + prior);
        let mut rates: Vec<f64> = rates.map(|sum| sum / (all + RANKS_PRIOR)).collect();
        // What is seldom is counted roughly, and shapes want rates that do not rise.
        rates.sort_by(|a, b| b.total_cmp(a));
        rates
    }

    fn sharpness(&self) -> Option<[Sharpness; 2]> {
        Some([self.greedy.clone(), self.noisy.clone()])
    }

    fn work(&self) -> DraftWork {
        self.work
    }
}
