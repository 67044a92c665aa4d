//! Several rows of logits at once, on all threads.

use super::{Sampler, scores};
use rayon::prelude::*;
use std::cell::RefCell;

thread_local! {
    static SAMPLER: RefCell<Sampler> = RefCell::default();
}

/// Bounds the threads that sample; to be called before the first row is, and once.
pub fn limit_threads(threads: usize) {
    if let Err(error) = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global() {
        tracing::debug!("sampling keeps its threads: {error}");
    }
}

/// Bytes that samplers and the scores of drafts take for `vocab` tokens, on all threads: those that share
/// rows, and the caller's, where a single row is sampled.
pub fn sampling_bytes(vocab: usize) -> usize {
    (rayon::current_num_threads() + 1) * (Sampler::bytes(vocab) + scores::bytes(vocab))
}

/// What `f` makes of each item, its rows of logits (`[any][vocab]`) and a sampler, in order. Items are
/// independent of each other, so that nothing depends on how many threads there are.
pub fn for_rows<T: Send, R: Send>(
    items: Vec<(T, &[f32])>,
    f: impl Fn(&mut Sampler, T, &[f32]) -> R + Sync,
) -> Vec<R> {
    let one =
        |(item, logits): (T, &[f32])| SAMPLER.with_borrow_mut(|sampler| f(sampler, item, logits));
    match items.len() {
        0 | 1 => items.into_iter().map(one).collect(),
        _ => items.into_par_iter().map(one).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_keep_their_rows_and_their_order() {
        let vocab = 5;
        for count in [0, 1, 2, 33] {
            let logits: Vec<f32> = (0..count * vocab).map(|i| i as f32).collect();
            let items = logits.chunks_exact(vocab).enumerate().map(|(at, own)| (10 * at, own));
            let found = for_rows(items.collect(), |_, item, row| (item, row.to_vec()));
            assert_eq!(found.len(), count);
            for (row, (item, own)) in found.into_iter().enumerate() {
                assert_eq!((item, &own[..]), (10 * row, &logits[row * vocab..][..vocab]));
            }
        }
    }
}
