//! The settings that a search tries: sizes of passes, ways of the cache, floors of the tiers.

use crate::inputs::Inputs;
use crate::policy::Tier;
use crate::round::near;
use crate::setting::{KvMode, Setting};

/// Sizes that are tried; between the batches, halves and quarters are refined later.
const BATCHES: [usize; 24] = [
    1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048,
    3072, 4096,
];
pub(crate) const CHUNKS: [usize; 8] = [16, 32, 64, 128, 256, 512, 1024, 2048];
const MICRO_BATCHES: [usize; 9] = [8, 16, 32, 64, 128, 256, 512, 1024, 2048];

/// The same where memory has no room for any of those.
const TIGHT_CHUNKS: [usize; 3] = [1, 4, 8];
const TIGHT_MICRO_BATCHES: [usize; 3] = [1, 2, 4];

/// Neighbouring parts that a ring may hold. Two is the least that overlaps at all; with three a
/// feed-forward can arrive while the one before it is used, which the program assumes.
pub(crate) const RINGS: [usize; 4] = [2, 3, 4, 6];
pub(crate) const RING: usize = RINGS[1];

/// Batches to try: no more than there are requests, or the pinned one.
pub(crate) fn batches(inputs: &Inputs<'_>) -> Vec<usize> {
    let requests = inputs.workload.count();
    if let Some(batch) = inputs.pins.batch {
        return vec![batch.min(requests)];
    }
    let mut batches: Vec<usize> = BATCHES.into_iter().filter(|&b| b < requests).collect();
    if requests <= BATCHES[BATCHES.len() - 1] {
        batches.push(requests);
    }
    batches
}

/// Prefill chunks to try: none twice as large as all prompts together.
pub(crate) fn chunks(inputs: &Inputs<'_>, tight: bool) -> Vec<usize> {
    if let Some(chunk) = inputs.pins.prefill_chunk {
        return vec![chunk];
    }
    if tight {
        return TIGHT_CHUNKS.to_vec();
    }
    let (prompts, _) = inputs.workload.tokens();
    let useful = |&(i, _): &(usize, usize)| i == 0 || CHUNKS[i - 1] < prompts;
    CHUNKS.into_iter().enumerate().filter(useful).map(|(_, chunk)| chunk).collect()
}

/// Micro-batches to try for passes of up to `rows` rows: the last is a whole pass.
pub(crate) fn micro_batches(inputs: &Inputs<'_>, rows: usize, tight: bool) -> Vec<usize> {
    if let Some(micro_batch) = inputs.pins.micro_batch {
        return vec![micro_batch];
    }
    let sizes = if tight { &TIGHT_MICRO_BATCHES[..] } else { &MICRO_BATCHES[..] };
    sizes.iter().copied().filter(|&m| m < rows).chain([rows]).collect()
}

/// Draft trees that a search tries.
#[derive(Clone, Debug)]
pub(crate) struct Trees {
    /// Whether no trees at all are a candidate.
    pub(crate) off: bool,
    /// Budgets, rising, without 0.
    pub(crate) budgets: Vec<usize>,
    /// Places of the draft; one `None` where trees need none.
    pub(crate) drafts: Vec<Option<usize>>,
}

/// A tree budget is this many times the one that is tried before it; those between are refined.
const BUDGET_STEP: usize = 4;

/// Trees to try: coarse budgets and the largest one, or the pinned one.
pub(crate) fn trees(inputs: &Inputs<'_>) -> Trees {
    let pins = inputs.pins;
    let Some(speculation) = &inputs.workload.speculation else {
        return Trees { off: true, budgets: Vec::new(), drafts: Vec::new() };
    };
    let homes = speculation.drafts.iter().map(|draft| draft.home).enumerate();
    let homes = homes.filter(|(_, home)| pins.draft.is_none_or(|pinned| pinned == *home));
    let mut drafts: Vec<_> = homes.map(|(draft, _)| Some(draft)).collect();
    if drafts.is_empty() {
        drafts.push(None);
    }
    let mut budgets = Vec::new();
    match pins.tree_budget {
        Some(pinned) => budgets.extend((pinned > 0).then_some(pinned)),
        None => {
            let offered = offered(inputs);
            for &budget in &offered {
                if budgets.last().is_none_or(|&last| budget >= BUDGET_STEP * last) {
                    budgets.push(budget);
                }
            }
            let largest = offered.last().filter(|&largest| budgets.last() != Some(largest));
            budgets.extend(largest);
        }
    }
    let off = pins.tree_budget.is_none_or(|pinned| pinned == 0);
    Trees { off, budgets, drafts }
}

/// Whether a budget that is not pinned could be the next smaller one without losing anything, as no
/// tree of the batch may be so large.
pub(crate) fn too_many_nodes(inputs: &Inputs<'_>, batch: usize, tree_budget: usize) -> bool {
    let most = inputs.workload.speculation.as_ref().map_or(0, |s| batch * s.nodes_max);
    inputs.pins.tree_budget.is_none() && tree_budget > BUDGET_STEP * most
}

/// All budgets that may be chosen, rising, without 0.
fn offered(inputs: &Inputs<'_>) -> Vec<usize> {
    let speculation = inputs.workload.speculation.iter();
    let mut budgets: Vec<usize> =
        speculation.flat_map(|s| &s.budgets).copied().filter(|&budget| budget > 0).collect();
    budgets.sort_unstable();
    budgets.dedup();
    budgets
}

/// Every second size, the last one included: trees multiply the candidates, so they are tried with
/// fewer sizes at first.
pub(crate) fn thinned(sizes: Vec<usize>) -> Vec<usize> {
    let last = sizes.len().saturating_sub(1);
    let kept = |&(i, _): &(usize, usize)| i % 2 == 0 || i == last;
    sizes.into_iter().enumerate().filter(kept).map(|(_, size)| size).collect()
}

/// Ways of keys and values that the machine and the pins allow.
pub(crate) fn kv_modes(inputs: &Inputs<'_>) -> Vec<KvMode> {
    match inputs.pins.host_attention {
        Some(true) => vec![KvMode::Host],
        // In memory that both share, what attends is asked for and not found out.
        None if !inputs.hardware.shares_ram => {
            vec![KvMode::Resident, KvMode::Host, KvMode::Staged]
        }
        _ => vec![KvMode::Resident, KvMode::Staged],
    }
}

/// The ways with the floors of cache and weights that can differ for each.
pub(crate) fn ways(inputs: &Inputs<'_>) -> Vec<(KvMode, Tier, Tier)> {
    let near = near(inputs);
    let slower = Tier::ALL.into_iter().filter(|&tier| tier > near);
    let mut ways = Vec::new();
    for kv_mode in kv_modes(inputs) {
        let floors = match kv_mode {
            KvMode::Resident => vec![near],
            KvMode::Host => vec![Tier::Ram],
            KvMode::Staged => slower.clone().collect(),
        };
        for kv_floor in floors {
            let weight_floors = Tier::ALL.into_iter().filter(|&tier| tier >= near);
            ways.extend(weight_floors.map(|weight_floor| (kv_mode, kv_floor, weight_floor)));
        }
    }
    ways
}

/// Settings whose sizes are a step away from those of `best`, the pinned ones left alone.
pub(crate) fn neighbours(inputs: &Inputs<'_>, best: &Setting) -> Vec<Setting> {
    let pins = inputs.pins;
    let whole = best.micro_batch == best.rows();
    let mut settings = Vec::new();
    let mut add = |batch: usize, prefill_chunk: usize, micro_batch: usize, tree_budget: usize| {
        let mut setting = Setting { batch, prefill_chunk, micro_batch, tree_budget, ..*best };
        if whole && pins.micro_batch.is_none() && micro_batch == best.micro_batch {
            setting.micro_batch = setting.rows();
        }
        settings.push(setting);
    };
    let trees = best.tree_budget;
    if trees > 0 && pins.tree_budget.is_none() {
        for budget in beside(&offered(inputs), trees) {
            add(best.batch, best.prefill_chunk, best.micro_batch, budget);
        }
    }
    if pins.batch.is_none() && trees > 0 {
        for batch in [best.batch - 1, best.batch + 1] {
            let batch = batch.clamp(1, inputs.workload.count());
            add(batch, best.prefill_chunk, best.micro_batch, trees);
        }
    }
    if pins.batch.is_none() {
        for eighths in [6, 7, 9, 10, 12] {
            let batch = (best.batch * eighths / 8).clamp(1, inputs.workload.count());
            add(batch, best.prefill_chunk, best.micro_batch, trees);
        }
    }
    if pins.prefill_chunk.is_none() {
        for eighths in [4, 6, 7, 9, 12] {
            let chunk = (best.prefill_chunk * eighths / 8).max(1);
            add(best.batch, chunk, best.micro_batch, trees);
        }
    }
    if trees > 0 && pins.batch.is_none() && pins.prefill_chunk.is_none() {
        // Both need memory: where it is full, one grows only as the other shrinks.
        let (more, less) = (best.batch * 2, best.batch.div_ceil(2));
        add(
            more.min(inputs.workload.count()),
            (best.prefill_chunk / 4).max(1),
            best.micro_batch,
            trees,
        );
        add(less, best.prefill_chunk * 2, best.micro_batch, trees);
    }
    if pins.micro_batch.is_none() {
        add(best.batch, best.prefill_chunk, (best.micro_batch / 2).max(1), trees);
        add(best.batch, best.prefill_chunk, (best.micro_batch * 2).min(best.rows()), trees);
    }
    settings
}

/// The two budgets before one of them and the two after it.
fn beside(offered: &[usize], budget: usize) -> Vec<usize> {
    let at = offered.iter().position(|&offered| offered == budget).unwrap_or(0);
    let around = offered.iter().skip(at.saturating_sub(2)).take(at.min(2) + 3);
    around.copied().filter(|&other| other != budget).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_thinned_and_budgets_looked_up() {
        assert_eq!(thinned(vec![1, 2, 3, 4]), [1, 3, 4]);
        assert_eq!(thinned(vec![7]), [7]);
        let offered = [4, 8, 16, 32, 64];
        assert_eq!(beside(&offered, 4), [8, 16]);
        assert_eq!(beside(&offered, 16), [4, 8, 32, 64]);
        assert_eq!(beside(&offered, 64), [16, 32]);
    }
}
