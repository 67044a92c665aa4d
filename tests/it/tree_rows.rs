//! Rows of draft trees: they have the bits of plain sequences, and what is accepted of them those of a fresh
//! prefill.

use crate::speculation::named;
use crate::support::{Kind, executor};
use forebay::exec::Executor;
use forebay::kernel::KvFormat;
use forebay::schedule::{Batch, CacheMove, Span, TreeSpan};

/// The logits of all outputs of a pass, bit by bit.
fn logits(executor: &mut Executor, batch: &Batch) -> Vec<Vec<u32>> {
    let (vocab, mut all) = (executor.spec().vocab, Vec::new());
    let mut each = |_: usize, logits: &[f32]| {
        all.extend(logits.chunks_exact(vocab).map(|row| row.iter().map(|v| v.to_bits()).collect()));
    };
    executor.pass(batch, &mut each).unwrap();
    all
}

/// The logits after the last of `tokens`, from a fresh cache, position by position.
pub(crate) fn sequential(executor: &mut Executor, tokens: &[u32], pages: &[u32]) -> Vec<u32> {
    let mut last = Vec::new();
    for start in 0..tokens.len() {
        let mut batch = Batch::default();
        let tokens = &tokens[start..=start];
        batch.push(Span { tokens, start, pages, logits: 1, moves: &[] });
        last = logits(executor, &batch).remove(0);
    }
    last
}

/// A tree's rows have the bits of plain sequences, whatever came before them; what is accepted and moved
/// gives the bits of a fresh prefill; logits can be asked for later.
#[test]
fn a_tree_computes_what_its_paths_would() {
    for name in ["llama", "qwen2", "gemma3"] {
        let model = named(name).unwrap();
        for kind in [Kind::Reference, Kind::Cpu, Kind::Gpu] {
            for kv_format in [KvFormat::F16, KvFormat::Q4] {
                let Some(mut executor) = executor(&model, kind, 64, 512, kv_format) else { return };
                check_tree(&mut executor, &format!("{name}, {kind:?}, {kv_format}"));
            }
        }
    }
}

fn check_tree(executor: &mut Executor, what: &str) {
    let pages: Vec<u32> = (0..8).rev().collect();
    let other: Vec<u32> = (10..18).collect();
    // Two chains and a fan below the root, rows not in the order of depth.
    let nodes = [5u32, 6, 7, 8, 9, 10, 11, 12];
    let parents = [0usize, 0, 1, 2, 0, 4, 5, 2];
    let path = |node: usize| {
        let up = std::iter::successors(Some(node), |&at| (at > 0).then(|| parents[at]));
        let mut path: Vec<u32> = up.filter(|&at| at > 0).map(|at| at as u32).collect();
        path.reverse();
        path
    };
    let paths: Vec<Vec<u32>> = (0..nodes.len()).map(path).collect();
    for length in [0usize, 1, 2, 14, 40] {
        let prompt: Vec<u32> = (0..length as u32).map(|i| 20 + i * 7 % 200).collect();
        let root = nodes[0];
        let mut batch = Batch::default();
        // The prompt comes in the tree's own pass for some lengths.
        let joined = length.is_multiple_of(2);
        if !joined {
            batch.push(Span { tokens: &prompt, start: 0, pages: &pages, logits: 0, moves: &[] });
            logits(executor, &batch);
            batch.clear();
        }
        batch.push_tree(TreeSpan {
            lead: if joined { &prompt } else { &[] },
            tokens: &nodes,
            paths: &paths,
            start: length,
            pages: &pages,
            outputs: &[0, 3, 7],
            moves: &[],
        });
        let found = logits(executor, &batch);
        let of = |executor: &mut Executor, node: usize, more: &[u32]| {
            let path = paths[node].iter().map(|&at| nodes[at as usize]);
            let tokens: Vec<u32> = prompt
                .iter()
                .copied()
                .chain([root])
                .chain(path)
                .chain(more.iter().copied())
                .collect();
            sequential(executor, &tokens, &other)
        };
        let first = if joined { length } else { 0 };
        let mut rest = Vec::new();
        let vocab = executor.spec().vocab;
        let rows: Vec<usize> = [1, 2, 4, 5, 6].iter().map(|node| first + node).collect();
        let mut each = |_: usize, all: &[f32]| {
            let rows = all.chunks_exact(vocab);
            rest.extend(rows.map(|row| row.iter().map(|v| v.to_bits()).collect::<Vec<_>>()));
        };
        executor.logits_of(&rows, &mut each).unwrap();
        let nodes_in_turn = [0, 3, 7].into_iter().zip(found);
        for (node, bits) in nodes_in_turn.chain([1, 2, 4, 5, 6].into_iter().zip(rest)) {
            assert!(of(executor, node, &[]) == bits, "{what}: node {node} after {length}");
        }
        // Rows 4, 5, 6 are accepted and move to where 1, 2, 3 were.
        let start = length as u32;
        let moves: Vec<CacheMove> = (1..4).map(|d| (start + d + 3, start + d)).collect();
        let (tokens, start) = (&[30, 31][..], length + 4);
        batch.clear();
        batch.push(Span { tokens, start, pages: &pages, logits: 1, moves: &moves });
        let after = logits(executor, &batch).remove(0);
        assert!(of(executor, 6, &[30, 31]) == after, "{what}: accepted after {length}");
    }
}
