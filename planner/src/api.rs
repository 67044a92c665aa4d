//! The two questions one can ask: what to do, and what a policy would take.

use crate::candidates::{RINGS, Trees};
use crate::error::{Change, PlanError};
use crate::hardware::{DiskRates, HardwareProfile};
use crate::inputs::{Inputs, Pins};
use crate::memory;
use crate::plan::{Memory, OfBudget, Plan};
use crate::policy::{Policy, Split, Tier};
use crate::price::Priced;
use crate::round;
use crate::rows::Decoding;
use crate::search::Search;
use crate::setting::{Head, KvMode, Setting};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Policies that are made real and run against the event clock.
const FINALISTS: usize = 6;
/// The same for questions of what if.
const FINALISTS_IF: usize = 2;
/// Runners-up that a plan carries.
const RUNNERS_UP: usize = 3;
/// Seconds that room for larger trees may cost, of the fastest policy's.
const ROOM: f64 = 1.03;
/// What more memory is asked about.
const MORE_BYTES: u64 = 4 << 30;
/// What a faster disk is asked about.
const FASTER_DISK: f64 = 2.0;

/// The fastest policy within the budgets and pins, with what is predicted of it and of others; if one with
/// larger trees takes hardly longer, that one.
///
/// Deterministic: the same inputs give the same plan. Called again with what is left of the workload
/// while a job runs, it re-plans.
///
/// # Errors
/// [`PlanError::DoesNotFit`] with the missing bytes, or [`PlanError::BadInput`].
pub fn plan(inputs: &Inputs<'_>) -> Result<Plan, PlanError> {
    inputs.check()?;
    let mut search = Search::new(*inputs);
    let mut found = search.run(FINALISTS)?;
    let narrowed = narrowed(&search.trees, &found);
    found.extend(tighter(&mut search, &narrowed));
    search.polish(&mut found);
    found.sort_by(Priced::by_seconds);
    found.dedup_by(|a, b| a.policy == b.policy);
    let by_budget = by_budget(&found);
    let best = choose(&mut found);
    let runners_up = found.into_iter().take(RUNNERS_UP).map(|p| (p.seconds(), p.policy));
    let runners_up = runners_up.map(|(seconds, policy)| (policy, seconds)).collect();
    let alike = match best.setting.tree_budget {
        0 => narrowed,
        budget => Trees { budgets: vec![budget], ..narrowed },
    };
    let what_ifs = what_ifs(&mut search, best.seconds(), &alike);
    Ok(Plan { runners_up, what_ifs, by_budget, ..report(&mut search, best) })
}

/// Trees to try where the inputs differ a little: none, and the budget that was the best so far.
fn narrowed(trees: &Trees, found: &[Priced]) -> Trees {
    let with = found.iter().filter(|priced| priced.setting.tree_budget > 0);
    let best = with.min_by(|a, b| a.by_seconds(b));
    let budgets = best.map(|best| best.setting.tree_budget).into_iter().collect();
    Trees { budgets, ..trees.clone() }
}

/// Takes the policy to choose out of `found`, which is sorted by seconds and not empty.
fn choose(found: &mut Vec<Priced>) -> Priced {
    let known: Vec<_> = found.iter().map(|p| (p.setting.tree_budget, p.seconds())).collect();
    found.remove(roomiest(&known))
}

/// Index of what to choose of (tree budget, seconds), which are sorted by seconds and not none: the fastest,
/// or one with larger trees that takes hardly longer and is still no loss. The engine grows smaller trees where
/// those turn out to be better, but larger ones than planned it cannot.
fn roomiest(found: &[(usize, f64)]) -> usize {
    let off = found.iter().position(|&(budget, _)| budget == 0).unwrap_or(found.len());
    let near = found[..off].iter().take_while(|(_, seconds)| *seconds <= found[0].1 * ROOM);
    let largest = near.enumerate().max_by_key(|(at, (budget, _))| (*budget, Reverse(*at)));
    largest.map_or(0, |(at, _)| at)
}

/// The fastest of each tree budget; `found` is sorted by seconds.
fn by_budget(found: &[Priced]) -> Vec<OfBudget> {
    let mut best = BTreeMap::new();
    for priced in found {
        best.entry(priced.setting.tree_budget).or_insert(priced);
    }
    let off = best.get(&0).map(|off| off.decode_seconds).filter(|seconds| *seconds > 0.0);
    let of = |(&tree_budget, priced): (&usize, &&Priced)| OfBudget {
        tree_budget,
        seconds: priced.seconds(),
        tokens_per_pass: priced.tokens_per_pass,
        break_even: off.map(|off| priced.tokens_per_pass * priced.decode_seconds / off),
    };
    best.iter().map(of).collect()
}

/// The best policies for a quarter less of each tier: rounding at wide budgets may miss what fits
/// narrower ones, and more memory must not make a plan slower.
fn tighter(search: &mut Search<'_>, trees: &Trees) -> Vec<Priced> {
    let inputs = search.inputs;
    let tiers = if inputs.hardware.shares_ram { &Tier::ALL[1..] } else { &Tier::ALL[..] };
    let mut found = Vec::new();
    for &tier in tiers {
        let mut budgets = inputs.budgets;
        *budgets.on_mut(tier) -= budgets.on(tier) / 4;
        let best = again(search, Inputs { budgets, ..inputs }, trees, FINALISTS);
        found.extend(best.unwrap_or_default());
    }
    found
}

/// A search for inputs of the same model and workload: the passes that were counted still hold.
fn again<'a>(
    search: &mut Search<'_>,
    inputs: Inputs<'a>,
    trees: &Trees,
    most: usize,
) -> Result<Vec<Priced>, PlanError> {
    let jobs = std::mem::take(&mut search.jobs);
    let mut other = Search { jobs, trees: trees.clone(), ..Search::new(inputs) };
    let found = other.run(most);
    search.jobs = other.jobs;
    found
}

/// What is predicted of a policy that is already decided.
///
/// # Errors
/// [`PlanError::DoesNotFit`] if it exceeds the budgets, [`PlanError::BadInput`] if it is not for this
/// model.
pub fn predict(inputs: &Inputs<'_>, policy: &Policy) -> Result<Plan, PlanError> {
    inputs.check()?;
    let setting = setting_of(inputs, policy)?;
    let mut search = Search::new(*inputs);
    let mut policy = policy.clone();
    policy.draft = policy.draft.filter(|_| policy.tree_budget > 0);
    policy.weights = memory::weights(inputs.model, &policy.homes);
    policy.kv = memory::cache(&search.costs, &setting, policy.pages, &policy.kv_homes);
    // The workload may be another than the one that it was made for.
    policy.window_pages = memory::window_pages(inputs, &setting, policy.pages);
    policy.ring = ring_here(inputs, &setting, &policy);
    memory::check_buffers(inputs, &search.costs, &setting, &policy)?;
    let needed = memory::account(inputs, &search.costs, &setting, &policy).total();
    let missing = needed.beyond(&inputs.capacity());
    if missing != Split::default() {
        let remedies = Tier::ALL.into_iter().filter(|&tier| missing.on(tier) > 0);
        let remedies = remedies.map(|tier| Change::Grow(tier, missing.on(tier))).collect();
        let budgets = inputs.capacity();
        return Err(PlanError::DoesNotFit { missing, needed, budgets, remedies });
    }
    let priced = search.price(&setting, policy);
    let by_budget = by_budget(std::slice::from_ref(&priced));
    Ok(Plan { by_budget, ..report(&mut search, priced) })
}

/// The rings of a policy, or the least that do: the machine may be another than it was made for.
fn ring_here(inputs: &Inputs<'_>, setting: &Setting, policy: &Policy) -> Split {
    let least = memory::ring(inputs, (RINGS[0], setting.head), &policy.homes);
    let Split { device, ram, .. } = policy.ring;
    let shares_ram = inputs.hardware.shares_ram;
    let largest = policy.ring.on(round::near(inputs));
    if (device == 0) != shares_ram || largest > inputs.footprint.buffer_bytes_max() {
        return least;
    }
    Split { device: device.max(least.device), ram: ram.max(least.ram), disk: 0 }
}

/// The enumerated part of a policy, if it is one of this model's.
fn setting_of(inputs: &Inputs<'_>, policy: &Policy) -> Result<Setting, PlanError> {
    let model = inputs.model;
    let segments = model.matrices().map(|m| m.segments.len());
    if !segments.eq(policy.homes.iter().map(Vec::len))
        || policy.kv_homes.len() != model.layers.len()
    {
        let why =
            "the policy was made for another model: its matrices or layers are not this model's";
        return Err(PlanError::BadInput(why.into()));
    }
    let format = inputs.kv_formats.iter().position(|format| *format == policy.kv_format);
    let Some(format) = format else {
        let why = format!("the policy's cache format {:?} is not allowed", policy.kv_format);
        return Err(PlanError::BadInput(why));
    };
    let sizes = [policy.batch, policy.micro_batch, policy.prefill_chunk];
    let longest = inputs.workload.longest_with_tree(policy.tree_budget);
    if sizes.contains(&0) || policy.pages < model.pages(longest) {
        let why = "the policy's sizes are 0, or its cache does not hold the longest sequence";
        return Err(PlanError::BadInput(why.into()));
    }
    if policy.activations == Tier::Disk {
        let why = "the policy keeps activations on disk, and they live in device memory or in RAM";
        return Err(PlanError::BadInput(why.into()));
    }
    let shares_ram = inputs.hardware.shares_ram;
    let on_device =
        policy.homes.iter().flatten().chain(&policy.kv_homes).chain([&policy.activations]);
    if shares_ram && on_device.clone().any(|&home| home == Tier::Device) {
        let why = "the policy uses device memory, and this device computes in host memory";
        return Err(PlanError::BadInput(why.into()));
    }
    if policy.host_attention && policy.kv_homes.iter().any(|&home| home != Tier::Ram) {
        let why = "the policy's host attends, and not all of its cache is in RAM";
        return Err(PlanError::BadInput(why.into()));
    }
    let draft = draft_of(inputs, policy)?;
    let itself = inputs.workload.target_draft();
    let away = |&home: &Tier| home != round::near(inputs);
    let elsewhere = policy.host_attention || policy.kv_homes.iter().any(away);
    if itself.is_some() && draft == itself && elsewhere {
        let why = "the policy drafts with the model itself, whose cache is not all where the device attends";
        return Err(PlanError::BadInput(why.into()));
    }
    let setting = Setting {
        batch: policy.batch,
        prefill_chunk: policy.prefill_chunk,
        tree_budget: policy.tree_budget,
        draft,
        micro_batch: policy.micro_batch,
        format,
        kv_mode: if policy.host_attention { KvMode::Host } else { KvMode::Staged },
        kv_floor: Tier::Disk,
        weight_floor: Tier::Disk,
        ring_parts: RINGS[0],
        head: Head::least(policy.tree_budget),
    };
    Ok(round::with_homes(inputs, &setting, &policy.kv_homes))
}

/// The draft of a policy among those that are known.
fn draft_of(inputs: &Inputs<'_>, policy: &Policy) -> Result<Option<usize>, PlanError> {
    if policy.tree_budget == 0 {
        return Ok(None);
    }
    let refused = |why: String| Err(PlanError::BadInput(format!("the policy speculates, {why}")));
    let Some(speculation) = &inputs.workload.speculation else {
        return refused("and no draft was given".into());
    };
    if policy.homes.last().is_some_and(|head| head.iter().any(|&h| h != round::near(inputs))) {
        return refused("and its output head is not where the device computes".into());
    }
    match policy.draft {
        None if speculation.drafts.is_empty() => Ok(None),
        None => refused("and does not say where its draft model lives".into()),
        Some(home) => match speculation.draft_at(home) {
            None => refused(format!("and no draft model is known that could live in {home}")),
            found => Ok(found),
        },
    }
}

fn report(search: &mut Search<'_>, priced: Priced) -> Plan {
    let job = search.job(&priced.setting);
    let (inputs, costs) = (&search.inputs, &search.costs);
    let passes = &search.jobs[job].1.passes;
    let decoding = Decoding::new(inputs, costs, &priced.setting, &priced.policy, passes);
    let (curve, free_rows) = (decoding.curve(priced.policy.rows()), decoding.free_rows());
    let memory = memory::account(inputs, &search.costs, &priced.setting, &priced.policy);
    let hw = inputs.hardware;
    let Split { device, ram, .. } = priced.policy.weights;
    let read = (device + ram) as f64 / hw.disk.read_bytes_per_sec;
    let upload = if hw.shares_ram { 0.0 } else { device as f64 / hw.upload_bytes_per_sec };
    Plan {
        binding: binding(inputs, &priced.policy, &memory),
        load_seconds: read.max(upload),
        bottleneck: priced.terms.bottleneck(),
        prefill_seconds: priced.prefill_seconds,
        decode_seconds: priced.decode_seconds,
        passes: priced.passes,
        tokens_per_pass: priced.tokens_per_pass,
        curve,
        free_rows,
        by_budget: Vec::new(),
        terms: priced.terms,
        memory,
        policy: priced.policy,
        what_ifs: Vec::new(),
        runners_up: Vec::new(),
    }
}

/// Tiers with less room left than one more segment (and its rounding), or layer of the cache, would take, while
/// something lives on slower ones.
fn binding(inputs: &Inputs<'_>, policy: &Policy, memory: &Memory) -> Vec<Tier> {
    let (capacity, total) = (inputs.capacity(), memory.total());
    let below = |tier: Tier, bytes: &Split| {
        let slower = Tier::ALL.into_iter().filter(move |&other| other > tier);
        slower.map(|other| bytes.on(other)).sum::<u64>()
    };
    let near = round::near(inputs);
    // What could still come up: a segment, or the cache of a whole layer.
    let layer = policy.kv.total().div_ceil(inputs.model.layers.len() as u64);
    let full = |tier: Tier| {
        let cache = if below(tier, &policy.kv) > 0 { layer } else { 0 };
        let slack = cache.max(3 * inputs.model.largest_segment());
        capacity.on(tier).saturating_sub(total.on(tier)) < slack
    };
    let tiers = Tier::ALL.into_iter().filter(|&tier| tier >= near && tier != Tier::Disk);
    let below = |tier: Tier| below(tier, &(policy.weights + policy.kv));
    tiers.filter(|&tier| below(tier) > 0 && full(tier)).collect()
}

/// What single changes would make of the job's seconds.
fn what_ifs(search: &mut Search<'_>, seconds: f64, trees: &Trees) -> Vec<(Change, f64)> {
    let inputs = search.inputs;
    let mut best_seconds = |inputs: Inputs<'_>| {
        let mut found = again(search, inputs, trees, FINALISTS_IF).ok()?;
        found.sort_by(Priced::by_seconds);
        Some(choose(&mut found).seconds())
    };
    let mut found = Vec::new();
    let tiers = if inputs.hardware.shares_ram { &Tier::ALL[1..2] } else { &Tier::ALL[..2] };
    for &tier in tiers {
        let mut budgets = inputs.budgets;
        *budgets.on_mut(tier) = budgets.on(tier).saturating_add(MORE_BYTES);
        let change = Change::Grow(tier, MORE_BYTES);
        found.push((change, best_seconds(Inputs { budgets, ..inputs })));
    }
    let disk = &inputs.hardware.disk;
    let disk = DiskRates {
        read_bytes_per_sec: disk.read_bytes_per_sec * FASTER_DISK,
        write_bytes_per_sec: disk.write_bytes_per_sec * FASTER_DISK,
        ..disk.clone()
    };
    let hardware = &HardwareProfile { disk, ..inputs.hardware.clone() };
    found.push((Change::FasterDisk(FASTER_DISK), best_seconds(Inputs { hardware, ..inputs })));
    let better = |(change, found): (Change, Option<f64>)| {
        (change, found.map_or(seconds, |found| found.min(seconds)))
    };
    found.into_iter().map(better).collect()
}

/// A policy's sizes as pins, for inputs that differ a little.
impl From<&Policy> for Pins {
    fn from(policy: &Policy) -> Pins {
        Pins {
            batch: Some(policy.batch),
            micro_batch: Some(policy.micro_batch),
            prefill_chunk: Some(policy.prefill_chunk),
            kv_format: Some(policy.kv_format.clone()),
            host_attention: Some(policy.host_attention),
            tree_budget: Some(policy.tree_budget),
            draft: policy.draft,
            ..Pins::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::roomiest;

    #[test]
    fn larger_trees_are_chosen_where_they_cost_little() {
        assert_eq!(roomiest(&[(16, 1.0), (64, 1.02), (256, 1.04)]), 1);
        assert_eq!(roomiest(&[(16, 1.0), (64, 1.01), (64, 1.02), (8, 1.025)]), 1);
        // Never a loss, and nothing to choose from.
        assert_eq!(roomiest(&[(16, 1.0), (0, 1.01), (64, 1.02)]), 0);
        assert_eq!(roomiest(&[(0, 1.0), (64, 1.01)]), 0);
        assert_eq!(roomiest(&[(4, 1.0)]), 0);
    }
}
