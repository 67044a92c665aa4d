//! Draft trees of a fixed shape, optimal where acceptance depends on a child's rank alone: Sequoia
//! (arXiv 2402.12374), propositions 3.2 to 3.4 and section 3.3.
//!
//! `p[k]` is the probability that child `k` (from 0, the likeliest by the draft) of an accepted node
//! is accepted. Node counts include the root, as in the paper.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Acceptance by rank of Llama3-70B-Instruct with the 8B model as draft, as published (appendix); the
/// published list goes on below 0.001, which changes no optimum of up to 1024 nodes.
pub const PUBLISHED_ACCEPTANCE: [f64; 15] = [
    0.7732, 0.1039, 0.0402, 0.0206, 0.0128, 0.0081, 0.0064, 0.0043, 0.0035, 0.0026, 0.0025, 0.0021,
    0.0016, 0.0014, 0.001,
];

/// The shape of a tree, parents before children. A node's children have the ranks 0, 1, 2…
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticTree {
    parents: Vec<u32>,
    ranks: Vec<u32>,
    depths: Vec<u32>,
    children: Vec<Vec<u32>>,
}

impl StaticTree {
    /// Nothing but a root.
    pub fn new() -> StaticTree {
        StaticTree { parents: vec![0], ranks: vec![0], depths: vec![0], children: vec![Vec::new()] }
    }

    /// Adds the next child of `parent`; its index.
    pub fn push(&mut self, parent: usize) -> usize {
        let node = self.parents.len();
        self.parents.push(parent as u32);
        self.ranks.push(self.children[parent].len() as u32);
        self.depths.push(self.depths[parent] + 1);
        self.children[parent].push(node as u32);
        self.children.push(Vec::new());
        node
    }

    /// Index of each node's parent; the root's is its own, 0.
    pub fn parents(&self) -> &[u32] {
        &self.parents
    }

    /// Which child of its parent each node is, from 0; the root's is 0.
    pub fn ranks(&self) -> &[u32] {
        &self.ranks
    }

    /// Edges from the root to each node.
    pub fn depths(&self) -> &[u32] {
        &self.depths
    }

    /// The children of `node`, by rank: as many of its likeliest children are wanted.
    pub fn children(&self, node: usize) -> &[u32] {
        &self.children[node]
    }

    /// Number of nodes without the root.
    pub fn size(&self) -> usize {
        self.parents.len() - 1
    }

    /// Depth of the deepest node.
    pub fn height(&self) -> usize {
        self.depths.iter().max().map_or(0, |&depth| depth as usize)
    }

    /// F(T): the sum over nodes of the probability that the node is accepted, 1 for the root, whose
    /// pass always gives a token (proposition 3.3).
    pub fn expected_tokens(&self, p: &[f64]) -> f64 {
        self.expected_by_size(p)[self.size()]
    }

    /// The same for the tree's first nodes alone, by their number without the root.
    pub fn expected_by_size(&self, p: &[f64]) -> Vec<f64> {
        let mut reach = vec![1.0; self.parents.len()];
        for node in 1..reach.len() {
            let rank = self.ranks[node] as usize;
            reach[node] = reach[self.parents[node] as usize] * rate(p, rank);
        }
        let mut tokens = 0.0;
        let add = |reach| {
            tokens += reach;
            tokens
        };
        reach.into_iter().map(add).collect()
    }
}

impl Default for StaticTree {
    fn default() -> StaticTree {
        StaticTree::new()
    }
}

/// Acceptance of child `rank`; 0 for what is no probability.
fn rate(p: &[f64], rank: usize) -> f64 {
    p.get(rank).map_or(0.0, |&p| if p > 0.0 { p.min(1.0) } else { 0.0 })
}

/// The best trees of one height for every number of nodes.
struct Level {
    /// `best[n]`: the most tokens of a tree of `n` nodes; no such tree: minus infinity.
    best: Vec<f64>,
    /// `width[n]`: children of the root of that tree.
    width: Vec<usize>,
    /// `last[b][n]`: nodes below the last of `b` children, itself included, in the best tree of `n`
    /// nodes whose root has `b`.
    last: Vec<Vec<usize>>,
}

impl Level {
    /// Trees whose subtrees are those of `below`:
    /// T\[n, b\] = max over m of T\[n - m, b - 1\] + p\[b - 1\] * best\[m\].
    fn above(below: Option<&Level>, p: &[f64], nodes: usize) -> Level {
        let width_max = if below.is_some() { p.len().min(nodes - 1) } else { 0 };
        let mut tokens = vec![vec![f64::NEG_INFINITY; nodes + 1]; width_max + 1];
        let mut last = vec![vec![0; nodes + 1]; width_max + 1];
        tokens[0][1] = 1.0;
        for (b, below) in (1..=width_max).zip(std::iter::repeat(below).flatten()) {
            for n in b + 1..=nodes {
                for m in 1..n {
                    let value = tokens[b - 1][n - m] + rate(p, b - 1) * below.best[m];
                    if value > tokens[b][n] {
                        (tokens[b][n], last[b][n]) = (value, m);
                    }
                }
            }
        }
        let mut level = Level { best: tokens[0].clone(), width: vec![0; nodes + 1], last };
        for (b, row) in tokens.iter().enumerate().skip(1) {
            for (n, &value) in row.iter().enumerate() {
                if value > level.best[n] {
                    (level.best[n], level.width[n]) = (value, b);
                }
            }
        }
        level
    }
}

/// The tree of up to `nodes` nodes and `depth` levels with the most expected tokens, for any `p`: the
/// dynamic program, with O(nodes² · ranks) steps for each level.
pub fn optimal_tree(p: &[f64], nodes: usize, depth: usize) -> StaticTree {
    let nodes = nodes.max(1);
    let mut levels = vec![Level::above(None, p, nodes)];
    for height in 0..depth.min(nodes - 1) {
        let level = Level::above(Some(&levels[height]), p, nodes);
        let settled = level.best == levels[height].best;
        levels.push(level);
        if settled {
            break;
        }
    }
    // Short of children or levels, fewer nodes are all there is.
    let best = &levels[levels.len() - 1].best;
    let most = (1..=nodes).max_by(|&a, &b| best[a].total_cmp(&best[b])).unwrap_or(1);
    let mut tree = StaticTree::new();
    let mut open = vec![(0, most, levels.len() - 1)];
    while let Some((root, mut left, height)) = open.pop() {
        let level = &levels[height];
        let mut below = Vec::new();
        for b in (1..=level.width[left]).rev() {
            below.push(level.last[b][left]);
            left -= level.last[b][left];
        }
        // Children were found last to first.
        for &m in below.iter().rev() {
            open.push((tree.push(root), m, height - 1));
        }
    }
    tree
}

/// A child that could be added next.
#[derive(PartialEq)]
struct Offer {
    reach: f64,
    parent: usize,
    parent_reach: f64,
    rank: usize,
}

impl Eq for Offer {}

impl PartialOrd for Offer {
    fn partial_cmp(&self, other: &Offer) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Offer {
    /// The likelier is the greater; of equals, the older parent's.
    fn cmp(&self, other: &Offer) -> Ordering {
        let by_reach = self.reach.total_cmp(&other.reach);
        by_reach.then(other.parent.cmp(&self.parent)).then(other.rank.cmp(&self.rank))
    }
}

/// The tree that [`optimal_tree`] finds where `p` does not increase, in O(nodes log nodes): always the
/// likeliest next child. Nodes are in order of their probability, so any number of first ones is the
/// best tree of that size.
pub fn greedy_tree(p: &[f64], nodes: usize, depth: usize) -> StaticTree {
    let mut tree = StaticTree::new();
    let mut heap = BinaryHeap::new();
    let offer = |parent, parent_reach: f64, rank| Offer {
        reach: parent_reach * rate(p, rank),
        parent,
        parent_reach,
        rank,
    };
    if depth > 0 && !p.is_empty() {
        heap.push(offer(0, 1.0, 0));
    }
    while tree.parents.len() < nodes
        && let Some(Offer { reach, parent, parent_reach, rank }) = heap.pop()
    {
        let node = tree.push(parent);
        if (tree.depths[node] as usize) < depth {
            heap.push(offer(node, reach, 0));
        }
        if rank + 1 < p.len() {
            heap.push(offer(parent, parent_reach, rank + 1));
        }
    }
    tree
}

/// Size and depth of a tree and what they promise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ShapeChoice {
    /// Nodes, the root included.
    pub nodes: usize,
    /// Levels below the root.
    pub depth: usize,
    /// Expected tokens of one pass.
    pub tokens: f64,
    /// Expected tokens per second.
    pub tokens_per_second: f64,
}

/// The hardware-aware choice (section 3.3): the size n and depth d that maximise
/// G(n, d) / (t(n) + d · c), for `p` that does not increase.
///
/// `pass_seconds` is t, of a target pass with n rows, for n from 1 to `nodes`; `level_seconds` is c, of
/// drafting one level. A tree of one node is no speculation, and a candidate too.
pub fn choose_shape(
    p: &[f64],
    nodes: usize,
    depth: usize,
    pass_seconds: &dyn Fn(usize) -> f64,
    level_seconds: f64,
) -> ShapeChoice {
    let seconds: Vec<f64> = (1..=nodes.max(1)).map(pass_seconds).collect();
    let speed = |tokens: f64, seconds: f64| if seconds > 0.0 { tokens / seconds } else { 0.0 };
    let tokens_per_second = speed(1.0, seconds[0]);
    let mut best = ShapeChoice { nodes: 1, depth: 0, tokens: 1.0, tokens_per_second };
    for depth in 1..=depth.min(nodes.saturating_sub(1)) {
        let tree = greedy_tree(p, nodes, depth);
        for (node, tokens) in tree.expected_by_size(p).into_iter().enumerate().skip(1) {
            let tokens_per_second = speed(tokens, seconds[node] + depth as f64 * level_seconds);
            if tokens_per_second > best.tokens_per_second {
                best = ShapeChoice { nodes: node + 1, depth, tokens, tokens_per_second };
            }
        }
    }
    best
}
