//! Growth of draft trees: the most probable continuations of several sequences by one best-first
//! search with batched expansions (SpecExec, section 3: parallel single-source shortest paths).

use super::sequoia::StaticTree;
use super::tree::{Node, Tree};
use std::cmp::Ordering;

/// How far trees grow. Any number may be 0: nothing grows then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrowthLimits {
    /// Nodes over all trees, roots not counted.
    pub budget: usize,
    /// Most edges from a root to a node.
    pub depth: usize,
    /// Most children of one node.
    pub width: usize,
    /// Most nodes expanded in one round.
    pub beams: usize,
    /// Most rounds.
    pub rounds: usize,
    /// Most nodes of one tree, its root not counted.
    pub tree_nodes: usize,
}

/// A node whose children are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expand {
    /// Index of the tree.
    pub tree: usize,
    /// Index of the node in the tree under growth.
    pub node: usize,
}

/// A node among those of all trees. The better is the likelier; among equals the older in its tree,
/// so that a parent is better than its children.
#[derive(Clone, Copy, Debug)]
struct Ranked {
    log_p: f32,
    node: u32,
    tree: u32,
}

impl Ranked {
    fn better(&self, other: &Ranked) -> Ordering {
        let by_p = other.log_p.total_cmp(&self.log_p);
        by_p.then(self.node.cmp(&other.node)).then(self.tree.cmp(&other.tree))
    }
}

/// Probability of a node's likeliest child, given the node, where nothing else is known.
const CHILD: f64 = 0.9;

/// One tree under growth.
#[derive(Clone, Debug)]
struct Grown {
    /// In the order they came; those that fell out of the best stay here and out of `alive`.
    nodes: Vec<Node>,
    /// Node of the shape that each node stands for, if there is a shape.
    places: Vec<u32>,
    /// Whether the node's children were given.
    given: Vec<bool>,
    /// Nodes that can be in the result, in no order; the root is not among them.
    alive: Vec<u32>,
    /// Rows that the draft has computed or been asked for.
    expansions: u32,
    /// Nodes must be likelier than this to count: the least of a tree that is full.
    floor: f32,
}

/// Trees of several sequences that share a budget.
#[derive(Clone, Debug)]
pub struct Forest {
    trees: Vec<Grown>,
    limits: GrowthLimits,
    shape: Option<StaticTree>,
    /// Nodes must be likelier than this to count: the least of a full budget.
    floor: f32,
    rounds: usize,
}

impl Forest {
    /// Trees of nothing but `roots`, the last tokens of the sequences.
    pub fn new(roots: &[u32], limits: GrowthLimits) -> Forest {
        let grown = |&token: &u32| Grown {
            nodes: Tree::new(token).nodes().to_vec(),
            places: vec![0],
            given: vec![false],
            alive: Vec::new(),
            expansions: 0,
            floor: f32::NEG_INFINITY,
        };
        let trees = roots.iter().map(grown).collect();
        Forest { trees, limits, shape: None, floor: f32::NEG_INFINITY, rounds: 0 }
    }

    /// Trees that all take the same shape: a round is a level, and ranks of children decide.
    pub fn with_shape(roots: &[u32], shape: StaticTree) -> Forest {
        let limits = GrowthLimits {
            budget: shape.size().saturating_mul(roots.len()),
            depth: shape.height(),
            width: usize::MAX,
            beams: usize::MAX,
            rounds: shape.height(),
            tree_nodes: shape.size(),
        };
        Forest { shape: Some(shape), ..Forest::new(roots, limits) }
    }

    /// The node in its tree under growth: there, nodes are in the order they came, and some may be
    /// left out of the result.
    pub fn node(&self, at: Expand) -> &Node {
        &self.trees[at.tree].nodes[at.node]
    }

    /// Expected number of accepted nodes as the trees are: the sum of the paths' probabilities of what can
    /// be in the result.
    pub fn expected(&self) -> f64 {
        let p = |grown: &Grown| -> f64 {
            let alive = grown.alive.iter().map(|&node| grown.nodes[node as usize].log_p);
            alive.map(|log_p| f64::from(log_p).exp()).sum()
        };
        self.trees.iter().map(p).sum()
    }

    /// What expanding these nodes may add to [`Forest::expected`], about: each brings a child nearly as
    /// likely as itself, which takes the place of the least of a full budget.
    pub fn promise(&self, round: &[Expand]) -> f64 {
        let gain = |at: &Expand| {
            let floor = f64::from(self.floor.max(self.trees[at.tree].floor)).exp();
            (CHILD * f64::from(self.node(*at).log_p).exp() - floor).max(0.0)
        };
        round.iter().map(gain).sum()
    }

    /// Tokens from depth 1 to the node, which is the last; none for a root.
    pub fn path_tokens(&self, at: Expand) -> Vec<u32> {
        let path = self.upwards(at).filter(|node| node.depth > 0);
        reversed(path.map(|node| node.token).collect())
    }

    /// Expansions from the root's, 0, to the node's own, which is the last: the rows of this tree in
    /// the draft's cache that the node attends to. The node must have come from `next_round`.
    pub fn path_expansions(&self, at: Expand) -> Vec<u32> {
        reversed(self.upwards(at).filter_map(|node| node.expansion).collect())
    }

    /// The node and those above it, the root last.
    fn upwards(&self, at: Expand) -> impl Iterator<Item = &Node> {
        let nodes = &self.trees[at.tree].nodes;
        std::iter::successors(Some(&nodes[at.node]), |node| {
            (node.depth > 0).then(|| &nodes[node.parent as usize])
        })
    }

    /// The best nodes whose children can still be among the best, best first, each once; empty when
    /// there are none or a limit is reached. The children of all of them are due before the next call.
    ///
    /// A child is at most as likely as its parent, so what is not asked for here cannot change the
    /// result, unless the limits of rounds end the search.
    pub fn next_round(&mut self) -> Vec<Expand> {
        self.keep_best();
        let limits = self.limits;
        if self.rounds >= limits.rounds || limits.budget.min(limits.tree_nodes) == 0 {
            return Vec::new();
        }
        let mut open = Vec::new();
        for (tree, grown) in self.trees.iter().enumerate() {
            let floor = grown.floor.max(self.floor);
            for &node in [0u32].iter().chain(&grown.alive) {
                let Node { log_p, depth, expansion, .. } = grown.nodes[node as usize];
                let wanted = self.wanted_children(grown.places[node as usize]);
                let deep = depth as usize >= limits.depth;
                if expansion.is_none() && log_p > floor && !deep && wanted > 0 {
                    open.push(Ranked { log_p, node, tree: tree as u32 });
                }
            }
        }
        keep_first(&mut open, limits.beams);
        open.sort_unstable_by(Ranked::better);
        self.rounds += 1;
        let asked = open.into_iter().map(|ranked| {
            let at = Expand { tree: ranked.tree as usize, node: ranked.node as usize };
            let grown = &mut self.trees[at.tree];
            grown.nodes[at.node].expansion = Some(grown.expansions);
            grown.expansions += 1;
            at
        });
        asked.collect()
    }

    /// How many children are kept of a node at this place of the shape.
    fn wanted_children(&self, place: u32) -> usize {
        match &self.shape {
            Some(shape) => shape.children(place as usize).len(),
            None => self.limits.width,
        }
    }

    /// Adds the children of a node that `next_round` asked for: (token, log-probability given the
    /// node's path), in any order. The likeliest are kept; of equal tokens, the likeliest.
    pub fn expand(&mut self, at: Expand, children: &[(u32, f32)]) {
        let Some(grown) = self.trees.get(at.tree) else { return };
        let Some(&Node { log_p, depth, expansion, .. }) = grown.nodes.get(at.node) else { return };
        if expansion.is_none() || grown.given[at.node] {
            return;
        }
        let floor = grown.floor.max(self.floor);
        let place = grown.places[at.node] as usize;
        let wanted = self.wanted_children(place as u32);
        let mut kept: Vec<(u32, f32)> = Vec::new();
        for &(token, conditional) in children {
            let log_p = log_p + conditional.min(0.0);
            // `f32::min` takes a NaN for the other operand, so that one is asked about by itself.
            if log_p > floor && !conditional.is_nan() {
                kept.push((token, log_p));
            }
        }
        kept.sort_by(|a, b| b.1.total_cmp(&a.1));
        let places: &[u32] = self.shape.as_ref().map_or(&[], |shape| shape.children(place));
        let grown = &mut self.trees[at.tree];
        grown.given[at.node] = true;
        let first = grown.nodes.len();
        for (token, log_p) in kept {
            let rank = grown.nodes.len() - first;
            if rank == wanted {
                break;
            }
            if grown.nodes[first..].iter().any(|sibling| sibling.token == token) {
                continue;
            }
            grown.alive.push(grown.nodes.len() as u32);
            let (parent, depth) = (at.node as u32, depth + 1);
            grown.nodes.push(Node { token, parent, depth, log_p, expansion: None });
            grown.places.push(places.get(rank).copied().unwrap_or(0));
            grown.given.push(false);
        }
    }

    /// Forgets what cannot be in the result any more, and raises the floors.
    fn keep_best(&mut self) {
        let mut all = Vec::new();
        for (tree, grown) in self.trees.iter_mut().enumerate() {
            let rank = |&node: &u32| {
                let log_p = grown.nodes[node as usize].log_p;
                Ranked { log_p, node, tree: tree as u32 }
            };
            let mut own: Vec<Ranked> = grown.alive.iter().map(rank).collect();
            grown.floor = keep_first(&mut own, self.limits.tree_nodes).unwrap_or(grown.floor);
            all.append(&mut own);
            grown.alive.clear();
        }
        self.floor = keep_first(&mut all, self.limits.budget).unwrap_or(self.floor);
        for ranked in all {
            self.trees[ranked.tree as usize].alive.push(ranked.node);
        }
    }

    /// The best trees, one for each root in their order: the `budget` likeliest nodes over all of
    /// them, each tree in its final order and with its expansions.
    pub fn finish(mut self) -> Vec<Tree> {
        self.keep_best();
        self.trees.iter_mut().map(Grown::finish).collect()
    }
}

impl Grown {
    fn finish(&mut self) -> Tree {
        self.alive.push(0);
        self.alive.sort_unstable();
        let place = |node: u32| self.alive.binary_search(&node).expect("parents are alive") as u32;
        let nodes = self.alive.iter().map(|&node| self.nodes[node as usize]);
        Tree::from_nodes(nodes.map(|node| Node { parent: place(node.parent), ..node }).collect())
    }
}

/// Keeps the best `count`, in no order; what the least of them has, if there are so many.
fn keep_first(ranked: &mut Vec<Ranked>, count: usize) -> Option<f32> {
    if count == 0 {
        ranked.clear();
        return Some(f32::INFINITY);
    }
    if ranked.len() < count {
        return None;
    }
    let (_, least, _) = ranked.select_nth_unstable_by(count - 1, Ranked::better);
    let least = least.log_p;
    ranked.truncate(count);
    Some(least)
}

fn reversed<T>(mut list: Vec<T>) -> Vec<T> {
    list.reverse();
    list
}
