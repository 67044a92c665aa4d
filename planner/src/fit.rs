//! The smallest policy: what fits if anything does, and what is missing if nothing does.

use crate::candidates::{CHUNKS, RINGS, batches, kv_modes, trees};
use crate::composer::compose;
use crate::cost::Costs;
use crate::error::{Change, PlanError};
use crate::homes::diffuse;
use crate::inputs::{Inputs, PinnedSplit, Pins};
use crate::passes::Composition;
use crate::policy::{Policy, Split, Tier};
use crate::round;
use crate::setting::{Fractions, Head, KvMode, Placement, Setting};
use crate::workload::Workload;
use crate::{memory, plan::Memory};

/// Which of RAM and disk may hold cache beside the tier that grows.
const AWAY: [[bool; 2]; 4] = [[true, true], [true, false], [false, true], [false, false]];

/// How far a policy is from fitting: tiers that are short, one more if a buffer is too large, and bytes.
type Rank = (usize, u64);

/// The policy that needs least, or what its budgets lack and what would help.
pub(crate) fn smallest(inputs: &Inputs<'_>) -> Result<(Setting, Policy), PlanError> {
    let (setting, policy, memory) = least(inputs);
    let needed = memory.total();
    let missing = needed.beyond(&inputs.capacity());
    if missing == Split::default() {
        memory::check_buffers(inputs, &Costs::new(inputs), &setting, &policy)?;
        return Ok((setting, policy));
    }
    let remedies = remedies(inputs, missing);
    Err(PlanError::DoesNotFit { missing, needed, budgets: inputs.capacity(), remedies })
}

/// Of all extreme policies the one with the fewest short tiers, then the fewest missing bytes.
fn least(inputs: &Inputs<'_>) -> (Setting, Policy, Memory) {
    let costs = Costs::new(inputs);
    let capacity = inputs.capacity();
    let settings = settings(inputs);
    let pages = pages(inputs, &costs, &settings[0]);
    let mut best: Option<(Rank, (Setting, Policy, Memory))> = None;
    for setting in settings {
        let weights = extremes(inputs, &costs, &setting).into_iter();
        let ways = weights.flat_map(|w| Tier::ALL.map(|grows| (w, grows)));
        for (weights, grows, away) in ways.flat_map(|(w, grows)| AWAY.map(|away| (w, grows, away)))
        {
            let way = (weights, grows, away);
            let Some(policy) = extreme(inputs, &costs, &setting, pages, way) else {
                continue;
            };
            let setting = round::with_homes(inputs, &setting, &policy.kv_homes);
            let memory = memory::account(inputs, &costs, &setting, &policy);
            let missing = memory.total().beyond(&capacity);
            let short = Tier::ALL.into_iter().filter(|&tier| missing.on(tier) > 0).count();
            let given = memory::check_buffers(inputs, &costs, &setting, &policy).is_ok();
            let short = short + usize::from(!given);
            let rank = (short, missing.total());
            if best.as_ref().is_none_or(|(least, _)| rank < *least) {
                best = Some((rank, (setting, policy, memory)));
            }
        }
    }
    best.expect("some tier can always be grown for the cache").1
}

/// Settings that need least, by format and way of the cache.
fn settings(inputs: &Inputs<'_>) -> Vec<Setting> {
    let pins = inputs.pins;
    // The least that there can be: no trees, unless they are pinned.
    let tree_budget = pins.tree_budget.unwrap_or(0);
    let drafts = if tree_budget > 0 { trees(inputs).drafts } else { vec![None] };
    let format =
        |f: &usize| pins.kv_format.as_ref().is_none_or(|pinned| *pinned == inputs.kv_formats[*f]);
    let formats = (0..inputs.kv_formats.len()).filter(format);
    let itself = inputs.workload.target_draft();
    let modes = match itself.filter(|_| tree_budget > 0) {
        // It computes over the target's cache.
        Some(_) => vec![KvMode::Resident],
        None => kv_modes(inputs),
    };
    let batch = pins.batch.map_or(1, |_| batches(inputs)[0]);
    let ways = formats.flat_map(|format| modes.iter().map(move |&kv_mode| (format, kv_mode)));
    ways.flat_map(|(format, kv_mode)| {
        drafts.iter().map(move |&draft| Setting {
            batch,
            prefill_chunk: pins.prefill_chunk.unwrap_or(if batch == 1 { 1 } else { CHUNKS[0] }),
            tree_budget,
            draft,
            micro_batch: pins.micro_batch.unwrap_or(1),
            format,
            kv_mode,
            kv_floor: Tier::Disk,
            weight_floor: Tier::Disk,
            ring_parts: RINGS[0],
            head: Head::least(tree_budget),
        })
    })
    .collect()
}

/// Pages of the cache, the same for all formats and ways of it.
fn pages(inputs: &Inputs<'_>, costs: &Costs<'_>, setting: &Setting) -> usize {
    let Setting { batch, prefill_chunk, tree_budget, .. } = *setting;
    if batch == 1 {
        let pages = inputs.model.pages(inputs.workload.longest_with_tree(tree_budget));
        let page_positions = inputs.model.page_positions;
        return inputs.workload.with_spare_pages(pages, tree_budget, page_positions);
    }
    let composition = Composition { batch, prefill_chunk, tree_budget };
    compose(inputs.workload, inputs.model, composition, &costs.windows).pages
}

/// Weights of layers and head: all streamed, only the layers, or all resident, as far as pins allow.
/// With draft trees the head is where the device computes, whatever else.
fn extremes(inputs: &Inputs<'_>, costs: &Costs<'_>, setting: &Setting) -> Vec<[Fractions; 2]> {
    let tier = round::near(inputs) as usize;
    let [far, near] = [2, tier].map(|free| filled(&inputs.pins.weights, free));
    if setting.tree_budget > 0 {
        return vec![
            with_head_at(tier, far, inputs, costs),
            with_head_at(tier, near, inputs, costs),
        ];
    }
    if inputs.pins.weights.is_free() {
        vec![[far, far], [far, near], [near, near]]
    } else {
        vec![[far, far], [near, near]]
    }
}

/// Fractions of all weights as fractions of layers and of a head that is all on one tier. Room for it
/// comes from tiers that are not pinned.
fn with_head_at(
    tier: usize,
    mut all: Fractions,
    inputs: &Inputs<'_>,
    costs: &Costs<'_>,
) -> [Fractions; 2] {
    let pinned = inputs.pins.weights.fractions();
    let whole = costs.layer_bytes + costs.head_bytes;
    let mut short = (costs.head_bytes / whole - all[tier]).max(0.0);
    for other in (0..3).rev().filter(|&other| other != tier && pinned[other].is_none()) {
        let moved = short.min(all[other]);
        all[other] -= moved;
        all[tier] += moved;
        short -= moved;
    }
    let mut head = [0.0; 3];
    head[tier] = 1.0;
    let layers = [0, 1, 2].map(|t| {
        let bytes = all[t] * whole - head[t] * costs.head_bytes;
        (bytes / costs.layer_bytes).clamp(0.0, 1.0)
    });
    [layers, head]
}

/// The pinned fractions, and what they leave on tier `free`, or on one that is not pinned.
fn filled(pins: &PinnedSplit, free: usize) -> Fractions {
    let pinned = pins.fractions();
    let left = 1.0 - pinned.iter().flatten().sum::<f64>();
    let mut fractions = pinned.map(|fraction| fraction.unwrap_or(0.0));
    let open = (0..3).rev().find(|&tier| pinned[tier].is_none());
    let to = if pinned[free].is_none() { Some(free) } else { open };
    if let Some(to) = to {
        fractions[to] += left.max(0.0);
    }
    fractions
}

/// A policy with these weights whose cache fills the other tiers first and then goes to `grows`.
fn extreme(
    inputs: &Inputs<'_>,
    costs: &Costs<'_>,
    setting: &Setting,
    pages: usize,
    ([layers, head], grows, away): ([Fractions; 2], Tier, [bool; 2]),
) -> Option<Policy> {
    let shares_ram = inputs.hardware.shares_ram;
    let near = round::near(inputs);
    let home = setting.kv_home(near);
    if home.is_some_and(|home| home != grows) || (shares_ram && grows == Tier::Device) {
        return None;
    }
    let build = |kv_homes: &[Tier]| {
        let placement = Placement {
            layers,
            head,
            kv: Vec::new(),
            activations: if shares_ram { 1.0 } else { 0.0 },
        };
        round::unfitted(inputs, costs, setting, pages, &placement, kv_homes)
    };
    let count = inputs.model.layers.len();
    if let Some(home) = home {
        let share = filled(&inputs.pins.kv, home as usize)[home as usize];
        return (share > 1.0 - 1e-9).then(|| build(&vec![home; count]));
    }
    if !inputs.pins.kv.is_free() {
        let fractions = filled(&inputs.pins.kv, grows as usize);
        return Some(build(&diffuse((0..count).map(|_| (1, &fractions)))));
    }
    let all_there = build(&vec![grows; count]);
    Some(build(&greedy(inputs, costs, setting, (grows, away), &all_there)))
}

/// As many layers of cache as fit on the tiers besides `grows`, which takes the rest.
fn greedy(
    inputs: &Inputs<'_>,
    costs: &Costs<'_>,
    setting: &Setting,
    (grows, away): (Tier, [bool; 2]),
    all_there: &Policy,
) -> Vec<Tier> {
    let pages = all_there.pages;
    let mut bytes = vec![0; inputs.model.layers.len()];
    for kind in &costs.kinds {
        for &layer in &kind.layers {
            bytes[layer] = kind.page_bytes[setting.format] * pages as u64;
        }
    }
    // Windows for the tiers that are to be used are taken off first.
    let [ram, disk] = away;
    let kept = [ram || grows == Tier::Ram, disk || grows == Tier::Disk];
    let demand = memory::demand(inputs, costs, setting, pages, kept);
    let reserved = memory::reserved(inputs, setting, &demand);
    let without = Policy { kv: Split::default(), ..all_there.clone() };
    let used = memory::account(inputs, costs, setting, &without);
    let used = Memory { workspace: reserved.workspace, ..used }.total();
    let capacity = inputs.capacity();
    let mut homes = vec![grows; bytes.len()];
    // Windows cost memory too: less may be needed if a tier is not used at all.
    let used_too = [true, away[0], away[1]];
    let tiers = Tier::ALL.into_iter().zip(used_too).filter(|&(tier, used)| used && tier != grows);
    for (tier, _) in tiers {
        let mut left = capacity.on(tier).saturating_sub(used.on(tier));
        for (home, &bytes) in homes.iter_mut().zip(&bytes) {
            if *home == grows && bytes <= left {
                *home = tier;
                left -= bytes;
            }
        }
    }
    homes
}

fn fits(inputs: &Inputs<'_>) -> bool {
    let (_, _, memory) = least(inputs);
    memory.total().beyond(&inputs.capacity()) == Split::default()
}

/// Single changes that would each make it fit.
fn remedies(inputs: &Inputs<'_>, missing: Split) -> Vec<Change> {
    let mut remedies = Vec::new();
    let mut short = Tier::ALL.into_iter().filter(|&tier| missing.on(tier) > 0);
    if let (Some(tier), None) = (short.next(), short.next()) {
        remedies.push(Change::Grow(tier, missing.on(tier)));
    }
    let pins = inputs.pins;
    if let Some(batch) = pins.batch {
        let with =
            |batch| fits(&Inputs { pins: &Pins { batch: Some(batch), ..pins.clone() }, ..*inputs });
        remedies.extend(largest_below(batch, with).map(Change::Batch));
    }
    if let Some(budget) = pins.tree_budget.filter(|&budget| budget > 0) {
        let with = |budget| {
            let pins = Pins { tree_budget: Some(budget), ..pins.clone() };
            fits(&Inputs { pins: &pins, ..*inputs })
        };
        remedies.extend(largest_below(budget, with).map(Change::TreeBudget));
    }
    let free = Pins::default();
    let unpinned = [
        ("weights", Pins { weights: free.weights, ..pins.clone() }),
        ("cache", Pins { kv: free.kv, ..pins.clone() }),
        ("prefill chunk", Pins { prefill_chunk: None, ..pins.clone() }),
        ("micro-batch", Pins { micro_batch: None, ..pins.clone() }),
        ("cache format", Pins { kv_format: None, ..pins.clone() }),
        ("draft trees", Pins { tree_budget: None, ..pins.clone() }),
        ("draft's home", Pins { draft: None, ..pins.clone() }),
    ];
    for (what, pins) in unpinned {
        if pins != *inputs.pins && fits(&Inputs { pins: &pins, ..*inputs }) {
            remedies.push(Change::Unpin(what));
        }
    }
    remedies.extend(shorter(inputs).map(Change::Longest));
    remedies
}

/// The longest sequences that would fit, all requests cut to them.
fn shorter(inputs: &Inputs<'_>) -> Option<usize> {
    largest_below(inputs.workload.longest(), |longest| {
        if longest < 2 {
            return false;
        }
        let mut workload = Workload { longest, ..inputs.workload.clone() };
        for request in &mut workload.requests {
            request.prompt = request.prompt.min(longest - 1);
            request.output = request.output.min(longest - request.prompt);
        }
        fits(&Inputs { workload: &workload, ..*inputs })
    })
}

/// The largest number below `end` that `fits`, where smaller ones fit if a larger one does.
fn largest_below(end: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
    let (mut low, mut high) = (0, end);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle) { low = middle } else { high = middle }
    }
    (low > 0).then_some(low)
}
