//! A model of the same vocabulary as a drafter: best-first growth with one pass of the draft for each
//! round, over all sequences (SpecExec, arXiv 2406.02532, algorithm 1). The draft is a smaller model
//! (`draft_cache.rs`), or the layers of the target that are at hand (`draft_layers.rs`).

use super::draft_cache::OwnCache;
use super::draft_layers::TargetLayers;
use super::draft_passes::DraftPasses;
use super::drafter::{
    DraftError, DraftWork, Draftable, Drafter, Followed, Growth, GrowthPlan, Target,
};
use super::learned::DraftLearned;
use crate::exec::Executor;
use crate::sample::{NoiseKey, SamplingParams, draft_scores, for_rows};
use crate::schedule::{Batch, TreeSpan};
use crate::speculate::{Expand, Forest, Node, PUBLISHED_ACCEPTANCE, Sharpness, Tree};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Children that a node may have, and scores that sharpness is fitted to.
pub(super) const WIDTH: usize = 16;

/// Of each expansion of a tree under growth: the children it was given, or `None` where it could not be
/// computed.
#[derive(Default)]
struct Expansions(Vec<Option<Vec<(u32, f32)>>>);

impl Expansions {
    fn note(&mut self, node: &Node, children: Option<Vec<(u32, f32)>>) {
        let Some(at) = node.expansion else { return };
        let at = at as usize;
        if self.0.len() <= at {
            self.0.resize(at + 1, None);
        }
        self.0[at] = children;
    }

    /// The row of a node that was computed, and its children.
    fn of(&self, node: &Node) -> Option<(usize, &[(u32, f32)])> {
        let row = node.expansion? as usize;
        Some((row, self.0.get(row)?.as_deref()?))
    }
}

/// See the module.
pub struct DraftModel {
    passes: Box<dyn DraftPasses>,
    /// Tokens that both models have: the first so many ids.
    vocab: usize,
    expansions: HashMap<u64, Expansions>,
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
        DraftModel::over(Box::new(OwnCache::new(executor)), vocab, shares_noise, learned)
    }

    /// A drafter that is the target itself, without the layers that are not at hand.
    pub fn of_target(vocab: usize, shares_noise: bool, learned: &DraftLearned) -> DraftModel {
        DraftModel::over(Box::<TargetLayers>::default(), vocab, shares_noise, learned)
    }

    fn over(
        passes: Box<dyn DraftPasses>,
        vocab: usize,
        shares_noise: bool,
        learned: &DraftLearned,
    ) -> DraftModel {
        let at_first = if shares_noise { Sharpness::noisy() } else { Sharpness::greedy() };
        let known = learned.sharpness.clone();
        let [greedy, noisy] = known.unwrap_or_else(|| [Sharpness::greedy(), at_first]);
        DraftModel {
            passes,
            vocab,
            expansions: HashMap::new(),
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
        let missing = |s: &Draftable<'_>| s.tokens.len().saturating_sub(self.passes.computed(s));
        sequences.iter().map(missing).sum::<usize>() / sequences.len().max(1)
    }

    /// One round: the children of `round`'s nodes, in as many passes as it takes.
    fn expand(
        &mut self,
        target: &mut Target<'_>,
        sequences: &[Draftable<'_>],
        forest: &mut Forest,
        round: &[Expand],
    ) -> Result<(), DraftError> {
        let mut by_tree: Vec<Vec<Expand>> = vec![Vec::new(); sequences.len()];
        round.iter().for_each(|&at| by_tree[at.tree].push(at));
        let (mut asked, most) = (Vec::new(), self.passes.rows(target));
        let before = self.work.rows;
        self.batch.clear();
        for nodes in by_tree.into_iter().filter(|nodes| !nodes.is_empty()) {
            let sequence = &sequences[nodes[0].tree];
            for nodes in nodes.chunks(most) {
                let rows = match sequence.depth {
                    // Its next token is its last.
                    0 => None,
                    _ => self.rows_of(target, sequence, sequences, forest, nodes)?,
                };
                let Some(rows) = rows else {
                    self.refuse(sequence, forest, nodes);
                    continue;
                };
                if self.batch.rows() + rows > most {
                    self.run(target, sequences, forest, &mut asked)?;
                }
                self.enter(sequence, forest, nodes);
                asked.extend_from_slice(nodes);
            }
        }
        self.run(target, sequences, forest, &mut asked)?;
        self.work.rounds += u64::from(self.work.rows > before);
        Ok(())
    }

    /// Rows that nodes of one tree bring to a pass: a root comes with all that is not computed before it.
    /// `None` where there is no room for them.
    fn rows_of(
        &mut self,
        target: &mut Target<'_>,
        sequence: &Draftable<'_>,
        all: &[Draftable<'_>],
        forest: &Forest,
        nodes: &[Expand],
    ) -> Result<Option<usize>, DraftError> {
        if nodes[0].node == 0 {
            let common = self.vocab.min(self.passes.vocab(target));
            if sequence.tokens.iter().any(|&token| token as usize >= common) {
                return Ok(None);
            }
            let caught_up = self.passes.catch_up(target, sequence, all)?;
            self.simulated += caught_up.unwrap_or(0.0);
            let rows = || sequence.tokens.len() - self.passes.computed(sequence);
            return Ok(caught_up.map(|_| rows()));
        }
        let last = nodes.iter().filter_map(|&at| forest.node(at).expansion).max().unwrap_or(0);
        let end = sequence.root() + last as usize + 1;
        Ok(self.passes.reserve(target, sequence, end, all).then_some(nodes.len()))
    }

    /// Nodes that cannot be computed have no children.
    fn refuse(&mut self, sequence: &Draftable<'_>, forest: &mut Forest, nodes: &[Expand]) {
        self.work.refused += if sequence.depth > 0 { nodes.len() as u64 } else { 0 };
        let expansions = self.expansions.entry(sequence.key).or_default();
        for &at in nodes {
            expansions.note(forest.node(at), None);
            forest.expand(at, &[]);
        }
    }

    fn enter(&mut self, sequence: &Draftable<'_>, forest: &Forest, nodes: &[Expand]) {
        self.work.rows += nodes.len() as u64;
        if nodes[0].node == 0 {
            return self.passes.enter(sequence, &mut self.batch);
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
            pages: self.passes.pages(sequence),
            outputs: &outputs,
            moves: &[],
        });
    }

    /// Runs what was entered; gives each of `asked` its children.
    fn run(
        &mut self,
        target: &mut Target<'_>,
        sequences: &[Draftable<'_>],
        forest: &mut Forest,
        asked: &mut Vec<Expand>,
    ) -> Result<(), DraftError> {
        if self.batch.rows() == 0 {
            return Ok(());
        }
        let vocab = self.passes.vocab(target);
        let (shares_noise, common) = (self.shares_noise, self.vocab.min(vocab));
        let (mut scores, plain) = (Vec::with_capacity(asked.len()), SamplingParams::default());
        let DraftModel { passes, batch, .. } = self;
        self.simulated += passes.run(target, batch, &mut |first, logits| {
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
        for (&at, scores) in asked.iter().zip(scores) {
            let sequence = &sequences[at.tree];
            let raw: Vec<f32> = scores.iter().map(|&(_, score)| score).collect();
            let log_ps = self.trust(sequence.sampling.temperature > 0.0).log_ps(&raw);
            let tokens = scores.iter().map(|&(token, _)| token);
            let deep = forest.node(at).depth as usize >= sequence.depth;
            let children: Vec<(u32, f32)> =
                if deep { vec![] } else { tokens.zip(log_ps).collect() };
            let expansions = self.expansions.entry(sequence.key).or_default();
            expansions.note(forest.node(at), Some(scores));
            forest.expand(at, &children);
        }
        self.batch.clear();
        asked.clear();
        Ok(())
    }

    /// Trees by `plan`, round by round.
    fn search(
        &mut self,
        target: &mut Target<'_>,
        sequences: &[Draftable<'_>],
        plan: &GrowthPlan<'_>,
    ) -> Result<Vec<Tree>, DraftError> {
        let roots: Vec<u32> = sequences.iter().map(|s| s.tokens[s.root()]).collect();
        let mut forest = plan.forest(&roots);
        // The first round, whose roots come with all that the draft has not seen of their sequences.
        let round = forest.next_round();
        self.caught_up = self.unseen(sequences) > UNSEEN;
        let start = Instant::now();
        self.expand(target, sequences, &mut forest, &round)?;
        let mut spent = if self.caught_up { self.round } else { start.elapsed() };
        loop {
            let round = forest.next_round();
            let (expected, next) = (forest.expected(), forest.promise(&round));
            let growth = Growth { expected, next, spent, round: self.round };
            if round.is_empty() || !(plan.goes_on)(growth) {
                return Ok(forest.finish());
            }
            let start = Instant::now();
            self.expand(target, sequences, &mut forest, &round)?;
            let took = start.elapsed();
            spent += took;
            self.round = if self.round.is_zero() { took } else { (3 * self.round + took) / 4 };
        }
    }

    fn trust(&mut self, noisy: bool) -> &mut Sharpness {
        if noisy { &mut self.noisy } else { &mut self.greedy }
    }
}

impl Drafter for DraftModel {
    fn grow(
        &mut self,
        target: &mut Target<'_>,
        sequences: &[Draftable<'_>],
        plan: &GrowthPlan<'_>,
    ) -> Result<Vec<Tree>, DraftError> {
        self.simulated = 0.0;
        self.batch.clear();
        for sequence in sequences {
            self.expansions.insert(sequence.key, Expansions::default());
        }
        let trees = self.search(target, sequences, plan);
        self.passes.grown(target);
        trees
    }

    fn followed(&mut self, what: &Followed<'_>) {
        let Some(expansions) = self.expansions.get(&what.key) else { return };
        let nodes = what.tree.nodes();
        let computed = |node: usize| expansions.of(&nodes[node]);
        let rows = what.path.iter().map_while(|&node| computed(node));
        let rows: Vec<usize> = rows.map(|(row, _)| row).collect();
        let tokens = what.path.iter().map(|&node| nodes[node].token).chain([what.next]);
        let from = [0].into_iter().chain(what.path.iter().copied());
        let mut outcomes = Vec::new();
        for (node, token) in from.zip(tokens) {
            let Some((_, scores)) = computed(node) else { break };
            let raw: Vec<f32> = scores.iter().map(|&(_, score)| score).collect();
            outcomes.push((raw, scores.iter().position(|&(child, _)| child == token)));
        }
        if computed(0).is_some() {
            self.passes.accepted(what, &rows);
        }
        for rank in outcomes.iter().map(|(_, followed)| *followed) {
            rank.into_iter().for_each(|rank| self.ranks.0[rank] += 1.0);
            self.ranks.1 += 1.0;
        }
        let sharpness = self.trust(what.noisy);
        outcomes.iter().for_each(|(scores, followed)| sharpness.observe(scores, *followed));
    }

    fn forget(&mut self, key: u64) {
        self.expansions.remove(&key);
        self.passes.forget(key);
    }

    fn uses_target(&self) -> bool {
        self.passes.uses_target()
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

    fn device_bytes_peak(&self, target: &Executor) -> u64 {
        self.passes.device_bytes_peak(target)
    }

    fn work(&self) -> DraftWork {
        self.work
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::CpuDevice;
    use crate::exec::ExecutorConfig;
    use crate::schedule::PagePool;
    use crate::speculate::GrowthLimits;
    use crate::store::ModelFiles;
    use std::path::Path;
    use std::sync::Arc;

    /// What a draft of so many tokens does for one sequence of a model that is the same as the draft.
    fn grow(vocab: usize) -> (Vec<Tree>, DraftWork) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny/llama");
        let files = Arc::new(ModelFiles::open(path.to_str().unwrap()).unwrap());
        let executor = || {
            let device = Box::new(CpuDevice::new(Some(1)).unwrap());
            let sizes = ExecutorConfig::resident(8, 8);
            Executor::new(device, Arc::clone(&files), sizes, &mut |_, _| {}).unwrap()
        };
        let (mut own, mut pool) = (executor(), PagePool::new(8));
        let mut draft = DraftModel::new(executor(), vocab, true, &DraftLearned::default());
        let sequence = Draftable {
            key: 0,
            tokens: &[5, 6, 7],
            pages: &[],
            computed: 0,
            sampling: &SamplingParams::default(),
            choice: 0,
            depth: 3,
        };
        let limits =
            GrowthLimits { budget: 4, depth: 3, width: WIDTH, beams: 4, rounds: 3, tree_nodes: 4 };
        let plan = GrowthPlan { limits, shape: None, goes_on: &|_| true };
        let mut target = Target { executor: &mut own, pool: &mut pool };
        let trees = draft.grow(&mut target, &[sequence], &plan).unwrap();
        assert!(draft.device_bytes_peak(&own) > 0);
        (trees, draft.work())
    }

    #[test]
    fn what_is_refused_is_no_work() {
        let (trees, work) = grow(7);
        assert_eq!((trees[0].size(), work), (0, DraftWork { rounds: 0, rows: 0, refused: 1 }));
        let (trees, work) = grow(usize::MAX);
        assert_eq!((trees[0].size(), work.refused), (4, 0));
        assert!((1..=3).contains(&work.rounds) && work.rows >= work.rounds, "{work:?}");
    }
}
