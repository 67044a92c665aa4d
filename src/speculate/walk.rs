//! Verification: following the tokens that the target samples through a draft tree (SpecExec,
//! algorithm 1). The draft's probabilities have no part in it, so that the tokens are the target's.

use super::tree::Tree;

/// A path from the root of a tree, one sampled token at a time.
#[derive(Clone, Debug)]
pub struct Walk<'a> {
    tree: &'a Tree,
    path: Vec<usize>,
    ended: bool,
}

impl<'a> Walk<'a> {
    /// A walk that stands at the root.
    pub fn new(tree: &'a Tree) -> Walk<'a> {
        Walk { tree, path: Vec::new(), ended: false }
    }

    /// The node whose logits give the next token.
    pub fn node(&self) -> usize {
        self.path.last().copied().unwrap_or(0)
    }

    /// Takes the token sampled at the current node. True: a hit, and its node is the current one now.
    /// False: the tree does not have it, and the walk has ended with a token that is valid all the
    /// same, the next root.
    pub fn step(&mut self, token: u32) -> bool {
        let next = if self.ended { None } else { self.tree.child(self.node(), token) };
        self.ended = next.is_none();
        self.path.extend(next);
        next.is_some()
    }

    /// Ends the walk where it stands: the next token's logits were not computed, or are not wanted.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Whether a token was sampled that the tree does not have, or [`Walk::end`] was called.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// The accepted nodes, in order, without the root.
    pub fn path(&self) -> &[usize] {
        &self.path
    }

    /// The current node and the chain of likeliest descendants below it, `most` nodes in all, as far as
    /// their probability given the current node is at least `least`: the rows whose logits are worth
    /// computing together. Nothing after the end.
    pub fn ahead(&self, most: usize, least: f32) -> Vec<usize> {
        let here = self.node();
        let log_p = |node: usize| self.tree.nodes()[node].log_p;
        let first = (!self.ended).then_some(here);
        let chain = std::iter::successors(first, |&node| {
            let next = self.tree.likeliest_child(node)?;
            ((log_p(next) - log_p(here)).exp() >= least).then_some(next)
        });
        chain.take(most).collect()
    }
}

/// The rows of a cache to move when `path` is accepted, as (from, to), in the order to move them in.
///
/// Node `k` of a tree lies in row `start + k`, and the accepted node of depth `d` has to lie in row
/// `start + d`; pairs are relative to `start`, which the root has. A row goes down, to one that is not
/// to be moved after it, so moving them one by one in this order is safe.
pub fn commit_moves(path: &[usize]) -> Vec<(u32, u32)> {
    let moves = path.iter().zip(1u32..).map(|(&node, depth)| (node as u32, depth));
    moves.filter(|(from, to)| from != to).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tree::tests::any_tree;
    use super::super::{Forest, GrowthLimits};
    use super::*;
    use crate::sample::NoiseKey;
    use proptest::prelude::*;

    const VOCABULARY: u32 = 5;

    /// Scores of the token after `tokens`, by a model that is a hash of all of them.
    fn logits(model: u64, tokens: &[u32]) -> Vec<f64> {
        let hash = tokens.iter().fold(model, |hash, &token| {
            (hash ^ u64::from(token)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23)
        });
        (0..VOCABULARY).map(|token| 2.0 * NoiseKey::new(hash, 0, 0).gumbel(token)).collect()
    }

    /// The token of keyed sampling after `tokens`.
    fn sample(model: u64, tokens: &[u32]) -> u32 {
        let key = NoiseKey::new(7, 0, tokens.len());
        let scores = logits(model, tokens);
        let score = |token: u32| scores[token as usize] + key.gumbel(token);
        (0..VOCABULARY).max_by(|&a, &b| score(a).total_cmp(&score(b))).unwrap()
    }

    fn plain(model: u64, mut tokens: Vec<u32>, count: usize) -> Vec<u32> {
        for _ in 0..count {
            tokens.push(sample(model, &tokens));
        }
        tokens
    }

    /// One pass: samples along the tree until it does not have the token; the accepted nodes.
    fn pass(model: u64, tokens: &mut Vec<u32>, tree: &Tree) -> Vec<usize> {
        let mut walk = Walk::new(tree);
        loop {
            // What a pass computes for a node is computed for the node's own path.
            let prefix = tokens.len() - walk.path().len();
            let path = tree.path(walk.node());
            let of_path = path.iter().map(|&node| tree.nodes()[node].token);
            assert!(tokens[prefix..].iter().copied().eq(of_path));
            let token = sample(model, tokens);
            tokens.push(token);
            if !walk.step(token) {
                return walk.path().to_vec();
            }
        }
    }

    fn grown(draft: u64, tokens: &[u32], budget: usize) -> Tree {
        let (depth, width) = (6, VOCABULARY as usize);
        let limits =
            GrowthLimits { budget, depth, width, beams: 4, rounds: 6, tree_nodes: usize::MAX };
        let mut forest = Forest::new(&tokens[tokens.len() - 1..], limits);
        loop {
            let round = forest.next_round();
            if round.is_empty() {
                return forest.finish().remove(0);
            }
            for at in round {
                let context = [tokens, &forest.path_tokens(at)].concat();
                let scores = logits(draft, &context);
                let sum = scores.iter().map(|score| score.exp()).sum::<f64>().ln();
                let log_ps = scores.iter().map(|score| (score - sum) as f32);
                forest.expand(at, &(0..).zip(log_ps).collect::<Vec<_>>());
            }
        }
    }

    proptest! {
        /// Any trees give the tokens of plain decoding, at least one a pass.
        #[test]
        fn tokens_are_those_of_plain_decoding(
            model: u64,
            trees in prop::collection::vec(any_tree(), 1..12),
        ) {
            let mut tokens = vec![3];
            for (tree, so_far) in trees.iter().zip(1..) {
                pass(model, &mut tokens, tree);
                prop_assert!(tokens.len() > so_far);
            }
            prop_assert_eq!(&plain(model, vec![3], tokens.len() - 1), &tokens);
        }

        /// So do trees grown by the model itself, by another, and empty ones.
        #[test]
        fn drafts_change_nothing(model: u64, draft: u64, budget in 0usize..40) {
            for draft in [model, draft] {
                let mut tokens = vec![3];
                for _ in 0..6 {
                    let tree = grown(draft, &tokens, budget);
                    prop_assert!(tree.size() <= budget);
                    pass(model, &mut tokens, &tree);
                }
                prop_assert_eq!(&plain(model, vec![3], tokens.len() - 1), &tokens);
            }
        }

        /// Moved one by one, every row arrives as it was, and the rows before it stay.
        #[test]
        fn moves_overwrite_nothing_needed(tree in any_tree(), pick: prop::sample::Index) {
            let path = tree.path(pick.index(tree.len()));
            let mut rows: Vec<usize> = (0..tree.len()).collect();
            for (from, to) in commit_moves(&path) {
                prop_assert!(from > to);
                rows[to as usize] = rows[from as usize];
            }
            prop_assert_eq!(&rows[1..=path.len()], &path[..]);
            prop_assert_eq!(rows[0], 0);
        }

        #[test]
        fn what_is_ahead_is_a_chain(tree in any_tree(), most in 0usize..6, least in 0.0f32..1.0) {
            let ahead = Walk::new(&tree).ahead(most, least);
            prop_assert!(ahead.iter().copied().eq(0..ahead.len()) && ahead.len() <= most);
            prop_assert!(ahead.iter().all(|&node| tree.nodes()[node].log_p.exp() >= least));
        }
    }

    /// A tree that always has the wrong tokens gives one token a pass, a right one its whole height.
    #[test]
    fn adversarial_and_perfect_trees() {
        let (model, mut tokens) = (11, vec![3]);
        let chain = |root: u32, path: &[u32]| {
            let mut nodes = Tree::new(root).nodes().to_vec();
            for &token in path {
                let parent = nodes.len() as u32 - 1;
                nodes.push(super::super::Node { token, parent, ..nodes[0] });
            }
            Tree::from_nodes(nodes)
        };
        for _ in 0..10 {
            let right = plain(model, tokens.clone(), 4)[tokens.len()..].to_vec();
            let wrong: Vec<u32> = right.iter().map(|token| token + 1).collect();
            assert!(pass(model, &mut tokens, &chain(3, &wrong)).is_empty());
            let right = plain(model, tokens.clone(), 4)[tokens.len()..].to_vec();
            let path = pass(model, &mut tokens, &chain(3, &right));
            assert_eq!(path, [1, 2, 3, 4]);
            assert!(commit_moves(&path).is_empty());
        }
        assert_eq!(plain(model, vec![3], tokens.len() - 1), tokens);
    }
}
