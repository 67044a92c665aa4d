//! From fractions to homes: whole segments, whole layers of cache, within the budgets to the byte.

use crate::cost::Costs;
use crate::homes::{cache_homes, weight_homes};
use crate::inputs::{Inputs, PinnedSplit};
use crate::kind::Kind;
use crate::lp::{self, Decided, Room};
use crate::memory::{self, RingShape};
use crate::passes::Pass;
use crate::policy::{Policy, Split, Tier};
use crate::setting::{Fractions, Head, KvMode, Placement, Setting};

/// A job's passes as the linear program sees them, and its pages.
#[derive(Clone, Copy)]
pub(crate) struct Demands<'a> {
    pub(crate) passes: &'a [Pass],
    pub(crate) pages: usize,
}

/// What is free for weights, cache, activations and ring.
pub(crate) fn room(
    inputs: &Inputs<'_>,
    costs: &Costs<'_>,
    setting: &Setting,
    pages: usize,
    away: [bool; 2],
) -> Room {
    let capacity = inputs.capacity();
    let near = near(inputs);
    let demand = memory::demand(inputs, costs, setting, pages, away);
    let mut taken = memory::reserved(inputs, setting, &demand).total();
    let stays = setting.head == Head::Stays;
    let segment = if stays { costs.layer_segment } else { costs.segment };
    if setting.weight_floor > near {
        // A segment at the ring's end is wasted; reads for a device of its own memory land in RAM.
        *taken.on_mut(near) += segment;
    }
    if setting.weight_floor == Tier::Disk {
        taken.ram += memory::host_ring(inputs, segment);
    }
    let kv = |kind: &Kind| {
        (kind.layers.len() as u64 * kind.page_bytes[setting.format] * pages as u64) as f64
    };
    Room {
        free: Tier::ALL.map(|tier| capacity.on(tier) as f64 - taken.on(tier) as f64),
        activations: inputs.footprint.activations(&demand) as f64,
        kv: costs.kinds.iter().map(kv).collect(),
        ring: RingShape::new(&costs.half_bytes, costs.head_bytes, setting),
        ring_max: inputs.footprint.buffer_bytes_max().saturating_sub(segment) as f64,
    }
}

/// The tier that the device computes from.
pub(crate) fn near(inputs: &Inputs<'_>) -> Tier {
    inputs.hardware.near()
}

/// Which of RAM and disk may hold cache that the device cannot reach, before that is decided.
pub(crate) fn may_be_away(setting: &Setting) -> [bool; 2] {
    let away = setting.kv_mode != KvMode::Resident;
    [away, away && setting.kv_floor == Tier::Disk]
}

/// The realisable policy nearest to `wanted` that fits, if there is one, with what became of the
/// setting.
pub(crate) fn realise(
    inputs: &Inputs<'_>,
    costs: &Costs<'_>,
    setting: &Setting,
    job: Demands<'_>,
    wanted: &Placement,
) -> Option<(Setting, Policy)> {
    // Rounding the cache up to a layer may not fit: then a layer less on one tier or another.
    let moves = [[0, 0], [1, 0], [0, 1], [1, 1], [0, -1]];
    let stays = setting.kv_mode == KvMode::Host || costs.drafts_itself(setting.draft);
    let tried = if stays { 1 } else { moves.len() };
    for fewer in moves.into_iter().take(tried) {
        let layers = inputs.model.layers.len();
        let kv_homes = cache_homes(costs, layers, &wanted.kv, fewer);
        let nearest = wanted.activations.round();
        for activations in [nearest, 1.0 - nearest] {
            if activations > 0.0 && inputs.hardware.shares_ram {
                continue;
            }
            let setting = with_homes(inputs, setting, &kv_homes);
            let policy = with_cache(inputs, costs, &setting, job, &kv_homes, activations);
            if let Some(policy) = policy {
                return Some((setting, policy));
            }
        }
    }
    None
}

/// The setting with the way and the floor of the cache that its homes really have.
pub(crate) fn with_homes(inputs: &Inputs<'_>, setting: &Setting, kv_homes: &[Tier]) -> Setting {
    let kv_floor = kv_homes.iter().copied().max().expect("a model has layers");
    let in_reach = kv_floor <= near(inputs);
    let kv_mode = match setting.kv_mode {
        KvMode::Host => KvMode::Host,
        _ if in_reach => KvMode::Resident,
        // A layer more than planned is away: its pages are brought.
        KvMode::Resident | KvMode::Staged => KvMode::Staged,
    };
    Setting { kv_mode, kv_floor, ..*setting }
}

/// Places the weights anew around a cache and a residual stream that have their homes.
pub(crate) fn with_cache(
    inputs: &Inputs<'_>,
    costs: &Costs<'_>,
    setting: &Setting,
    job: Demands<'_>,
    kv_homes: &[Tier],
    activations: f64,
) -> Option<Policy> {
    let away = [Tier::Ram, Tier::Disk].map(|tier| kv_homes.contains(&tier));
    let decided = Decided {
        weights: inputs.pins.weights,
        kv: Some(costs.kinds.iter().map(|kind| kind.shares(kv_homes)).collect()),
        activations: Some(activations),
        ..Decided::default()
    };
    let room = room(inputs, costs, setting, job.pages, away);
    let placement = lp::solve(costs, setting, job.passes, &room, &decided)?;
    fit_weights(inputs, costs, setting, job.pages, &placement, kv_homes)
}

/// Rounds are enough for the ring to follow the weights that leave memory for it.
const ROUNDS: usize = 32;

/// Gives every segment a home; what is over a budget by rounding moves one tier down.
pub(crate) fn fit_weights(
    inputs: &Inputs<'_>,
    costs: &Costs<'_>,
    setting: &Setting,
    pages: usize,
    placement: &Placement,
    kv_homes: &[Tier],
) -> Option<Policy> {
    let (mut layers, mut head) = (placement.layers, placement.head);
    let capacity = inputs.capacity();
    for _ in 0..ROUNDS {
        let placement = Placement { layers, head, ..placement.clone() };
        let policy = unfitted(inputs, costs, setting, pages, &placement, kv_homes);
        let over = memory::account(inputs, costs, setting, &policy).total().beyond(&capacity);
        if over == Split::default() {
            let given = memory::check_buffers(inputs, costs, setting, &policy).is_ok();
            return (given && keeps_pins(inputs, &policy)).then_some(policy);
        }
        for (tier, bytes) in [over.device, over.ram].into_iter().enumerate() {
            let head = (setting.tree_budget == 0).then_some(&mut head);
            if !move_down(costs, &mut layers, head, tier, bytes as f64) {
                return None;
            }
        }
        if over.device + over.ram == 0 {
            return None;
        }
    }
    None
}

/// Moves `bytes` from a tier to the one below, from the layers first and then from a head that may
/// move; false if there are not as many.
fn move_down(
    costs: &Costs<'_>,
    layers: &mut Fractions,
    head: Option<&mut Fractions>,
    tier: usize,
    bytes: f64,
) -> bool {
    let mut left = bytes;
    let layers = [(layers, costs.layer_bytes)];
    for (fractions, whole) in layers.into_iter().chain(head.map(|head| (head, costs.head_bytes))) {
        let moved = left.min(fractions[tier] * whole);
        fractions[tier] = (fractions[tier] - moved / whole).max(0.0);
        fractions[tier + 1] += moved / whole;
        left -= moved;
    }
    left <= 0.5
}

fn draft_home(inputs: &Inputs<'_>, setting: &Setting) -> Option<Tier> {
    let speculation = inputs.workload.speculation.as_ref()?;
    setting.draft.map(|draft| speculation.drafts[draft].home)
}

/// The policy of a placement, whether it fits or not.
pub(crate) fn unfitted(
    inputs: &Inputs<'_>,
    costs: &Costs<'_>,
    setting: &Setting,
    pages: usize,
    placement: &Placement,
    kv_homes: &[Tier],
) -> Policy {
    let whole = costs.drafts_itself(setting.draft);
    let mut homes = weight_homes(inputs, (&placement.layers, &placement.head), whole);
    if setting.tree_budget > 0 {
        // Not even a segment of it may be away by rounding.
        homes.last_mut().expect("the head is the last").fill(near(inputs));
    }
    let in_ram = placement.activations > 0.5 || inputs.hardware.shares_ram;
    Policy {
        batch: setting.batch,
        micro_batch: setting.micro_batch,
        prefill_chunk: setting.prefill_chunk,
        tree_budget: setting.tree_budget,
        draft: draft_home(inputs, setting),
        weights: memory::weights(inputs.model, &homes),
        ring: memory::ring(inputs, (setting.ring_parts, setting.head), &homes),
        homes,
        pages,
        kv_format: inputs.kv_formats[setting.format].clone(),
        kv: memory::cache(costs, setting, pages, kv_homes),
        kv_homes: kv_homes.to_vec(),
        window_pages: memory::window_pages(inputs, setting, pages),
        host_attention: setting.kv_mode == KvMode::Host,
        activations: if in_ram { Tier::Ram } else { Tier::Device },
    }
}

/// Segments by which rounding may miss a pinned fraction.
const PIN_SEGMENTS: u64 = 4;

fn keeps_pins(inputs: &Inputs<'_>, policy: &Policy) -> bool {
    let PinnedSplit { device, ram, disk } = inputs.pins.weights;
    let whole = policy.weights.total() as f64;
    let slack = (PIN_SEGMENTS * inputs.model.largest_segment()) as f64;
    let kept = |pin: Option<f64>, bytes: u64| {
        pin.is_none_or(|fraction| (fraction * whole - bytes as f64).abs() <= slack)
    };
    let Split { device: d, ram: r, disk: k } = policy.weights;
    kept(device, d) && kept(ram, r) && kept(disk, k)
}
