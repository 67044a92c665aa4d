//! Speculation in an engine: how large the trees of a pass are, what became of them, and what is learned.

use super::drafter::{DraftError, Draftable, Drafter, Followed, Growth, GrowthPlan, Target};
use super::learned::DraftLearned;
use super::pace::Pace;
use crate::exec::Executor;
use crate::kernel::TREE_DEPTH_MAX;
use crate::speculate::{
    GrowthLimits, StaticTree, Tree, best_size, choose_shape, greedy_tree, node_log_ps, trim_to_best,
};
use std::time::{Duration, Instant};

/// Nodes of one tree at most: what a sequence's part of the cache is planned for.
pub const TREE_NODES_MAX: usize = 4095;

/// A time in which something else can be done.
const WHILE: Duration = Duration::from_millis(1);

/// Sizes of trees.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpeculationConfig {
    /// Most nodes of all trees of a pass.
    pub budget: usize,
    /// (rows, predicted seconds) of a pass, draft excluded; empty where nothing is known.
    pub curve: Vec<(usize, f64)>,
    /// Whether trees are as large as brings the most tokens per second by `curve`, and not as large as the
    /// budget allows.
    pub adapts: bool,
    /// What trees look like.
    pub shape: TreeShape,
}

/// What trees look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TreeShape {
    /// Each grows where its draft is sure (SpecExec): one heap over all.
    #[default]
    Dynamic,
    /// All are the best tree for the measured acceptance by rank (Sequoia).
    Static,
    /// One guess after the other.
    Chain,
}

/// What speculation did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpeculationStats {
    /// Trees that were verified: one at most for a sequence and a pass, and none where nothing grew.
    pub trees: u64,
    /// Sequences of the passes with trees, those for which nothing grew included.
    pub sequences: u64,
    /// Passes with trees.
    pub passes: u64,
    /// Their nodes, roots not counted.
    pub nodes: u64,
    /// Nodes that were accepted.
    pub accepted: u64,
    /// Sum of their heights.
    pub heights: u64,
    /// Accepted nodes by depth, from 1 on.
    pub by_depth: Vec<u64>,
    /// Time of drafting, and of the target's passes with trees.
    pub draft: Duration,
    /// See above.
    pub target: Duration,
    /// Tokens that the trees were expected to bring beside those that come anyway, by the draft itself.
    pub expected: f64,
    /// Nodes that the draft could not expand; see [`super::DraftWork`].
    pub refused: u64,
    /// Why drafting ended before the job did.
    pub failure: Option<String>,
}

impl SpeculationStats {
    /// Tokens for each sequence of a pass with trees, whether one grew for it or not.
    pub fn tokens_per_pass(&self) -> f64 {
        1.0 + self.accepted as f64 / self.sequences.max(1) as f64
    }
}

/// A pass that was run.
pub(super) struct Passed {
    /// Its rows, and those of prompts among them.
    pub(super) rows: usize,
    pub(super) prompt: usize,
    /// Rows whose logits were computed.
    pub(super) outputs: usize,
    /// Sequences that got tokens, and how many.
    pub(super) sequences: usize,
    pub(super) tokens: usize,
    pub(super) took: Duration,
}

/// A drafter at work.
pub struct Speculation {
    drafter: Option<Box<dyn Drafter>>,
    config: SpeculationConfig,
    pace: Pace,
    learned: DraftLearned,
    stats: SpeculationStats,
    /// Time and simulated seconds of the last growth, and whether there was one.
    pub(super) last: (Duration, f64),
    grew: bool,
    /// Time and rounds of growths that had nothing to read first.
    rounds: (Duration, u64),
    /// What a draft that failed had held on the device.
    held: u64,
}

impl Speculation {
    /// Speculation by `drafter`, which starts with what was learned before.
    pub fn new(
        drafter: Box<dyn Drafter>,
        config: SpeculationConfig,
        learned: DraftLearned,
    ) -> Speculation {
        Speculation {
            drafter: Some(drafter),
            pace: Pace::new(config.curve.clone()),
            config,
            learned,
            stats: SpeculationStats::default(),
            last: Default::default(),
            grew: false,
            rounds: Default::default(),
            held: 0,
        }
    }

    /// Most nodes of all trees of a pass.
    pub fn budget(&self) -> usize {
        self.config.budget
    }

    /// What sizes of trees follow, if anything.
    fn pace(&self) -> Option<&Pace> {
        self.config.adapts.then_some(&self.pace)
    }

    /// Whether a draft computes for a while beside the target, as far as its last growth tells.
    pub(super) fn computes_beside(&self) -> bool {
        self.grew && !self.uses_target() && self.last.0 >= WHILE
    }

    /// Whether trees grow in the target's own cache; see [`Drafter::uses_target`].
    pub(super) fn uses_target(&self) -> bool {
        self.drafter.as_ref().is_some_and(|drafter| drafter.uses_target())
    }

    /// Most bytes that the draft has held on the device; see [`Drafter::device_bytes_peak`].
    pub(super) fn device_bytes_peak(&self, target: &Executor) -> u64 {
        self.drafter.as_ref().map_or(self.held, |drafter| drafter.device_bytes_peak(target))
    }

    /// What was done so far.
    pub fn stats(&self) -> &SpeculationStats {
        &self.stats
    }

    /// Counts on from what was done before.
    pub(super) fn go_on(&mut self, stats: SpeculationStats) {
        self.stats = stats;
    }

    /// What was learned so far.
    pub fn learned(&self) -> DraftLearned {
        let sharpness = self.drafter.as_ref().and_then(|drafter| drafter.sharpness());
        let mut learned = self.learned.clone();
        learned.sharpness = sharpness.or(learned.sharpness);
        learned
    }

    /// One tree for each sequence; where there is nothing to be had, of a root alone.
    /// The pass has `others` rows besides.
    pub(super) fn grow(
        &mut self,
        target: &mut Target<'_>,
        sequences: &[Draftable<'_>],
        others: usize,
    ) -> Vec<Tree> {
        let start = Instant::now();
        self.grew = false;
        self.last = Default::default();
        let wanted = sequences.iter().any(|sequence| sequence.depth > 0);
        let on = !self.config.adapts || self.pace.speculates();
        let trees = match self.drafter.is_some() && wanted && on && self.config.budget > 0 {
            true => self.try_to_grow(target, sequences, others),
            false => None,
        };
        let took = start.elapsed();
        match trees {
            Some(trees) => {
                let simulated = self.drafter.as_ref().map_or(0.0, |drafter| drafter.simulated());
                (self.last, self.grew) = ((took, simulated), true);
                self.stats.draft += took;
                self.trim(trees, others, took)
            }
            None => sequences.iter().map(|s| Tree::new(s.tokens[s.root()])).collect(),
        }
    }

    fn try_to_grow(
        &mut self,
        target: &mut Target<'_>,
        all: &[Draftable<'_>],
        others: usize,
    ) -> Option<Vec<Tree>> {
        let budget = self.config.budget;
        let limits = GrowthLimits {
            budget,
            depth: all.iter().map(|s| s.depth).max().unwrap_or(0).min(TREE_DEPTH_MAX),
            width: super::draft_model::WIDTH,
            // Wide rounds are for large trees: a confident draft's are chains.
            beams: all.len() + (budget / 12).clamp(2, 64),
            rounds: TREE_DEPTH_MAX,
            tree_nodes: budget.min(TREE_NODES_MAX),
        };
        let start = Instant::now();
        // Taken out, and put back unless it fails.
        let mut drafter = self.drafter.take()?;
        let before = drafter.work();
        let goes_on = |growth: Growth| self.goes_on(all.len(), others, growth);
        let shape = self.shape(all.len(), limits.depth, drafter.as_ref());
        match drafter.grow(target, all, &GrowthPlan { limits, shape, goes_on: &goes_on }) {
            Ok(trees) => {
                let work = drafter.work();
                let nodes: usize = trees.iter().map(Tree::size).sum();
                let (rounds, rows) = (work.rounds - before.rounds, work.rows - before.rows);
                self.stats.refused += work.refused - before.refused;
                // What came to nothing does not tell what a node costs.
                if nodes > 0 {
                    self.learned.grew(rounds, rows, nodes);
                }
                if !drafter.caught_up() {
                    self.rounds.0 += start.elapsed();
                    self.rounds.1 += rounds;
                }
                self.drafter = Some(drafter);
                Some(trees)
            }
            Err(error) => {
                self.held = drafter.device_bytes_peak(target.executor);
                self.fail(&error);
                None
            }
        }
    }

    /// The shape of each of so many trees that share the budget evenly.
    fn shape(&self, trees: usize, depth: usize, drafter: &dyn Drafter) -> Option<StaticTree> {
        let nodes = (self.config.budget / trees).min(TREE_NODES_MAX);
        match self.config.shape {
            TreeShape::Dynamic => None,
            TreeShape::Chain => {
                let mut chain = StaticTree::new();
                let end = (0..nodes.min(depth)).fold(0, |parent, _| chain.push(parent));
                debug_assert_eq!(end, chain.height());
                Some(chain)
            }
            TreeShape::Static => {
                let p = drafter.acceptance();
                let Some(pace) = self.pace() else {
                    return Some(greedy_tree(&p, nodes + 1, depth));
                };
                let seconds = |rows: usize| pace.seconds(trees * rows);
                let level = self.rounds.0.as_secs_f64() / self.rounds.1.max(1) as f64;
                let best = choose_shape(&p, nodes + 1, depth, &seconds, level);
                Some(greedy_tree(&p, best.nodes, best.depth))
            }
        }
    }

    /// The job goes on without trees.
    fn fail(&mut self, error: &DraftError) {
        tracing::warn!("{error}; going on without it");
        self.stats.failure = Some(error.to_string());
    }

    /// Whether another round brings tokens faster than the pass as it stands.
    fn goes_on(&self, sequences: usize, others: usize, growth: Growth) -> bool {
        let Some(pace) = self.pace() else { return true };
        let tokens = sequences as f64 + growth.expected;
        let rows = sequences + (self.config.budget / 2).min(growth.expected.ceil() as usize * 2);
        let seconds = pace.seconds(others + rows) + growth.spent.as_secs_f64();
        growth.next * seconds >= tokens * growth.round.as_secs_f64()
    }

    /// As many of the trees' best nodes as bring the most tokens per second.
    fn trim(&mut self, trees: Vec<Tree>, others: usize, took: Duration) -> Vec<Tree> {
        let Some(pace) = self.pace() else { return trees };
        let seconds = |rows: usize| pace.seconds(others + rows) + took.as_secs_f64();
        let keep = best_size(&node_log_ps(&trees), trees.len(), &seconds);
        trim_to_best(&trees, keep)
    }

    /// Takes in what came of a tree, which may be a root alone; `ended` says that its sequence did.
    pub(super) fn followed(&mut self, what: &Followed<'_>, ended: bool) {
        if !self.grew {
            return;
        }
        let (nodes, size) = (what.tree.nodes(), what.tree.size());
        let stats = &mut self.stats;
        stats.sequences += 1;
        stats.trees += u64::from(size > 0);
        stats.nodes += size as u64;
        stats.accepted += what.path.len() as u64;
        stats.heights += what.tree.height() as u64;
        stats.expected += nodes[1..].iter().map(|node| f64::from(node.log_p).exp()).sum::<f64>();
        stats.by_depth.resize(stats.by_depth.len().max(what.path.len()), 0);
        stats.by_depth[..what.path.len()].iter_mut().for_each(|count| *count += 1);
        // What ends a sequence says nothing about the trees.
        if !ended {
            self.learned.followed(what.noisy, what.tree, what.path);
            if let Some(drafter) = &mut self.drafter {
                drafter.followed(what);
            }
        }
    }

    /// Seconds that a pass over `rows` rows is predicted to take, if anything is known.
    pub(super) fn predicted(&self, rows: usize) -> Option<f64> {
        Some(self.pace.seconds(rows)).filter(|seconds| *seconds > 0.0)
    }

    /// Takes in a pass.
    pub(super) fn passed(&mut self, pass: &Passed) {
        let seconds = pass.took.as_secs_f64();
        self.pace.measured(pass.rows, seconds);
        // Prompts, which the draft has to read too, are no part of the bargain.
        let caught_up = self.drafter.as_ref().is_some_and(|drafter| drafter.caught_up());
        if self.config.adapts && self.grew && pass.prompt == 0 && !caught_up {
            let both = seconds + self.last.0.as_secs_f64();
            self.pace.judge(pass.sequences, pass.tokens, both);
        }
        if self.grew {
            self.learned.passed(pass.outputs, pass.tokens);
            self.stats.passes += 1;
            self.stats.target += pass.took;
        }
    }

    pub(super) fn forget(&mut self, key: u64) {
        if let Some(drafter) = &mut self.drafter {
            drafter.forget(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::DraftLookup;
    use crate::speculate::Node;

    #[test]
    fn roots_alone_are_no_trees() {
        let (drafter, config) = (Box::new(DraftLookup::new()), SpeculationConfig::default());
        let mut speculation = Speculation::new(drafter, config, DraftLearned::default());
        speculation.grew = true;
        let alone = Tree::new(5);
        let root = alone.nodes()[0];
        let grown = Tree::from_nodes(vec![root, Node { log_p: -0.5, depth: 1, ..root }]);
        let paths: [&[usize]; 3] = [&[], &[1], &[]];
        for (tree, path) in [&alone, &grown, &alone].into_iter().zip(paths) {
            let what = Followed { key: 0, noisy: false, root: 0, tree, path, next: 1 };
            speculation.followed(&what, false);
        }
        let stats = speculation.stats();
        assert_eq!((stats.sequences, stats.trees, stats.nodes), (3, 1, 1));
        assert_eq!(stats.tokens_per_pass(), 1.0 + 1.0 / 3.0);
    }
}
