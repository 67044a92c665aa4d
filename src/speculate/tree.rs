//! A draft tree: continuations of one sequence, to be verified in one pass (SpecExec, section 3).

use std::cmp::Ordering;

/// One token of a draft tree; it continues the path that ends at its parent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Node {
    /// Token id.
    pub token: u32,
    /// Index of the parent; the root's is its own, 0.
    pub parent: u32,
    /// Edges from the root.
    pub depth: u32,
    /// Natural logarithm of the path's probability by the draft; the root's is 0.
    pub log_p: f32,
    /// The draft has this node's key and value in its cache, as the so-many-th row it computed of
    /// this tree. `None`: not computed.
    pub expansion: Option<u32>,
}

/// The order of the best nodes: likelier first, then older first. A parent is at least as likely as
/// its children and older, so any number of best nodes is a tree.
pub(super) fn likelier(a: (f32, usize), b: (f32, usize)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// Nodes depth first, the likeliest child first: the likeliest chain has the nodes 1, 2, 3…, so its
/// rows of the cache are in place when it is accepted.
///
/// Node 0 is the root: the last token of the sequence, which the target has not computed yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Tree {
    nodes: Vec<Node>,
    /// Node after the last descendant of each node.
    ends: Vec<u32>,
    /// A bitset of `words` words for each node.
    ancestors: Vec<u64>,
    words: usize,
}

impl Tree {
    /// A tree of nothing but the sequence's last token.
    pub fn new(root: u32) -> Tree {
        let root = Node { token: root, parent: 0, depth: 0, log_p: 0.0, expansion: None };
        Tree::from_nodes(vec![root])
    }

    /// A tree of `nodes`, parents before children and the root first; siblings differ in tokens.
    /// Depths are worked out here, and no node is left likelier than its parent.
    ///
    /// # Panics
    /// Without a root, or where a node comes before its parent.
    pub fn from_nodes(mut nodes: Vec<Node>) -> Tree {
        assert!(!nodes.is_empty(), "a tree has a root");
        (nodes[0].parent, nodes[0].depth) = (0, 0);
        for at in 1..nodes.len() {
            let parent = nodes[at].parent as usize;
            assert!(parent < at, "node {at} comes before its parent");
            let (above, own) = (nodes[parent], nodes[at].log_p);
            nodes[at].depth = above.depth + 1;
            nodes[at].log_p = if own.is_nan() { f32::NEG_INFINITY } else { own.min(above.log_p) };
        }
        let nodes = depth_first(&nodes);
        let ends = ends(&nodes);
        let words = nodes.len().div_ceil(64);
        let mut ancestors = vec![0u64; words * nodes.len()];
        for (at, node) in nodes.iter().enumerate() {
            let (above, own) = ancestors.split_at_mut(at * words);
            if at > 0 {
                let from = node.parent as usize * words;
                own[..words].copy_from_slice(&above[from..from + words]);
            }
            own[at / 64] |= 1 << (at % 64);
        }
        Tree { nodes, ends, ancestors, words }
    }

    /// All nodes, the root first, parents before children.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Number of nodes, the root included: the rows of a pass that verifies the tree.
    #[expect(clippy::len_without_is_empty, reason = "a tree has a root")]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Number of nodes without the root.
    pub fn size(&self) -> usize {
        self.nodes.len() - 1
    }

    /// Depth of the deepest node.
    pub fn height(&self) -> usize {
        self.nodes.iter().map(|node| node.depth as usize).max().unwrap_or(0)
    }

    /// Children of `node`, likeliest first.
    pub fn children(&self, node: usize) -> impl Iterator<Item = usize> + '_ {
        let end = self.ends[node] as usize;
        let first = (node + 1 < end).then_some(node + 1);
        std::iter::successors(first, move |&child| {
            let next = self.ends[child] as usize;
            (next < end).then_some(next)
        })
    }

    /// The child of `node` with `token`.
    pub fn child(&self, node: usize, token: u32) -> Option<usize> {
        self.children(node).find(|&child| self.nodes[child].token == token)
    }

    /// The likeliest child of `node`.
    pub fn likeliest_child(&self, node: usize) -> Option<usize> {
        self.children(node).next()
    }

    /// Bitset of the nodes on the path to `node`, the root and itself included: bit `i % 64` of word
    /// `i / 64` is node `i`.
    pub fn ancestors(&self, node: usize) -> &[u64] {
        &self.ancestors[node * self.words..][..self.words]
    }

    /// Nodes from depth 1 to `node`, which is the last; empty for the root.
    pub fn path(&self, node: usize) -> Vec<usize> {
        let mut path = Vec::with_capacity(self.nodes[node].depth as usize);
        let mut at = node;
        while at > 0 {
            path.push(at);
            at = self.nodes[at].parent as usize;
        }
        path.reverse();
        path
    }

    /// The tree of the `keep` most likely nodes beside the root, older ones first among equals.
    pub fn trimmed(&self, keep: usize) -> Tree {
        if keep >= self.size() {
            return self.clone();
        }
        let mut kept: Vec<usize> = (1..self.len()).collect();
        let key = |node: usize| (self.nodes[node].log_p, node);
        kept.select_nth_unstable_by(keep, |&a, &b| likelier(key(a), key(b)));
        kept.truncate(keep);
        kept.push(0);
        kept.sort_unstable();
        let place = |node: u32| kept.binary_search(&(node as usize)).expect("parents are kept");
        let nodes = kept.iter().map(|&node| self.nodes[node]);
        let moved = nodes.map(|node| Node { parent: place(node.parent) as u32, ..node });
        Tree::from_nodes(moved.collect())
    }
}

/// `nodes` depth first, the likeliest child first, then the older.
fn depth_first(nodes: &[Node]) -> Vec<Node> {
    // Sorted by parent, then likeliest first: the children of a node are a run of these.
    let mut children: Vec<usize> = (1..nodes.len()).collect();
    let key = |node: usize| (nodes[node].log_p, node);
    children.sort_unstable_by(|&a, &b| {
        nodes[a].parent.cmp(&nodes[b].parent).then_with(|| likelier(key(a), key(b)))
    });
    let mut runs = vec![0..0; nodes.len()];
    let mut start = 0;
    for run in children.chunk_by(|&a, &b| nodes[a].parent == nodes[b].parent) {
        runs[nodes[run[0]].parent as usize] = start..start + run.len();
        start += run.len();
    }
    let mut ordered = Vec::with_capacity(nodes.len());
    // Nodes to come, with the new number of their parent.
    let mut stack = vec![(0usize, 0u32)];
    while let Some((node, parent)) = stack.pop() {
        let number = ordered.len() as u32;
        ordered.push(Node { parent, ..nodes[node] });
        stack.extend(children[runs[node].clone()].iter().rev().map(|&child| (child, number)));
    }
    ordered
}

/// For each node of a list in depth-first order, the node after its last descendant.
fn ends(nodes: &[Node]) -> Vec<u32> {
    let mut ends: Vec<u32> = (1..=nodes.len() as u32).collect();
    for at in (1..nodes.len()).rev() {
        let parent = nodes[at].parent as usize;
        ends[parent] = ends[parent].max(ends[at]);
    }
    ends
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Trees of up to 30 nodes: for each, which of the nodes before it is the parent, and a token.
    pub(in crate::speculate) fn any_tree() -> impl Strategy<Value = Tree> {
        prop::collection::vec((0usize..1000, 0u32..3, 0u8..4), 0..30).prop_map(|made| {
            let mut nodes = Tree::new(9).nodes;
            for (parent, token, cost) in made {
                let parent = parent % nodes.len();
                let log_p = nodes[parent].log_p - f32::from(cost) * 0.5;
                let (parent, depth) = (parent as u32, 0);
                if !nodes[1..].iter().any(|node| node.parent == parent && node.token == token) {
                    nodes.push(Node { token, parent, depth, log_p, expansion: None });
                }
            }
            Tree::from_nodes(nodes)
        })
    }

    proptest! {
        #[test]
        fn nodes_are_in_order(tree in any_tree()) {
            for (at, node) in tree.nodes().iter().enumerate().skip(1) {
                let parent = node.parent as usize;
                prop_assert!(parent < at && node.log_p <= tree.nodes()[parent].log_p);
                prop_assert_eq!(node.depth, tree.nodes()[parent].depth + 1);
                prop_assert_eq!(tree.child(parent, node.token), Some(at));
            }
            let mut at = 0;
            while let Some(next) = tree.likeliest_child(at) {
                prop_assert_eq!(next, at + 1);
                at = next;
            }
            let all: usize = (0..tree.len()).map(|node| tree.children(node).count()).sum();
            prop_assert_eq!(all, tree.size());
        }

        /// The bitset is what a walk over the parents finds.
        #[test]
        fn ancestors_are_the_path(tree in any_tree()) {
            for node in 0..tree.len() {
                let bits = tree.ancestors(node);
                let set: Vec<usize> =
                    (0..tree.len()).filter(|&n| bits[n / 64] >> (n % 64) & 1 == 1).collect();
                let path = tree.path(node);
                prop_assert_eq!(path.len(), tree.nodes()[node].depth as usize);
                prop_assert_eq!(set, [vec![0], path].concat());
            }
        }

        /// Trimming keeps the best, whether it is done at once or in two steps.
        #[test]
        fn trimming_keeps_the_best(tree in any_tree(), keep in 0usize..32, less in 0usize..32) {
            let trimmed = tree.trimmed(keep);
            prop_assert_eq!(trimmed.size(), keep.min(tree.size()));
            let sorted = |tree: &Tree| {
                let mut all: Vec<f32> = tree.nodes()[1..].iter().map(|node| node.log_p).collect();
                all.sort_unstable_by(|a, b| b.total_cmp(a));
                all
            };
            prop_assert_eq!(sorted(&trimmed), &sorted(&tree)[..trimmed.size()]);
            prop_assert_eq!(trimmed.trimmed(less), tree.trimmed(keep.min(less)));
        }
    }

    #[test]
    fn odd_probabilities_are_taken() {
        let mut nodes = Tree::new(1).nodes;
        for (token, log_p) in [(0, f32::NAN), (1, 3.0), (2, f32::NEG_INFINITY)] {
            nodes.push(Node { token, parent: 0, depth: 7, log_p, expansion: None });
        }
        let tree = Tree::from_nodes(nodes);
        assert_eq!(tree.likeliest_child(0), tree.child(0, 1));
        assert_eq!((tree.height(), tree.nodes()[1].log_p), (1, 0.0));
    }
}
