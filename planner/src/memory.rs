//! Bytes of a policy on each tier, by the allocator's own sizes.

use crate::cost::Costs;
use crate::error::PlanError;
use crate::footprint::{Demand, Windows};
use crate::inputs::Inputs;
use crate::plan::Memory;
use crate::policy::{Policy, Split, Tier, outputs};
use crate::setting::{Head, KvMode, Setting};
use crate::shape::ModelShape;
use crate::speculation::Draft;

/// Bytes of neighbouring parts of a model, which the ring is sized by.
pub(crate) struct RingShape {
    /// Most bytes of so many neighbouring halves of layers.
    pub(crate) layers: f64,
    /// Bytes of the head, and most bytes of its neighbours in such a run of parts.
    pub(crate) head: f64,
    pub(crate) beside_head: f64,
}

impl RingShape {
    /// For the rings of a setting; `halves` has the bytes of each half of each layer.
    pub(crate) fn new(halves: &[f64], head: f64, setting: &Setting) -> RingShape {
        let run = setting.ring_parts;
        let sums = halves.windows(run.min(halves.len())).map(|parts| parts.iter().sum());
        let layers = sums.fold(0.0, f64::max);
        if setting.head == Head::InRuns {
            return RingShape { layers, head: 0.0, beside_head: 0.0 };
        }
        let beside = run.saturating_sub(1).min(halves.len());
        let around = |before: usize| -> f64 {
            let (last, first) = (&halves[halves.len() - before..], &halves[..beside - before]);
            last.iter().chain(first).sum()
        };
        let beside_head = (0..=beside).map(around).fold(0.0, f64::max);
        RingShape { layers, head, beside_head }
    }
}

/// Segments that a ring has room for at least where only a head streams, and that in runs, of which a ring is to
/// hold three: one is used, one is there, one arrives.
const HEAD_SEGMENTS: u64 = 3;

/// Where the weights of each part are that are not at hand: which homes are streamed from.
pub(crate) fn streamed(home: Tier, shares_ram: bool) -> bool {
    home == Tier::Disk || (home == Tier::Ram && !shares_ram)
}

/// Bytes of rings for weights at these homes: on the device the `run` neighbouring parts that stream
/// most (one is used while the others arrive) and a segment that does not fit before the ring's end;
/// in RAM, on the way to a device of its own memory, the reads in flight and as many to upload.
/// A head that comes in runs takes what the layers leave, three of its segments at least.
pub(crate) fn ring(inputs: &Inputs<'_>, (run, head): (usize, Head), homes: &[Vec<Tier>]) -> Split {
    let (model, shares_ram) = (inputs.model, inputs.hardware.shares_ram);
    let mut parts = vec![0; 2 * model.layers.len() + 1];
    let (mut largest, mut largest_read) = (0, 0);
    for ((part, matrix), homes) in model.matrices_by_part().zip(homes) {
        for (&bytes, &home) in matrix.segments.iter().zip(homes) {
            if streamed(home, shares_ram) {
                parts[part] += bytes;
                largest = largest.max(bytes);
            }
            if home == Tier::Disk {
                largest_read = largest_read.max(bytes);
            }
        }
    }
    let in_runs = if head == Head::InRuns { parts.pop().unwrap_or(0) } else { 0 };
    let run = run.min(parts.len());
    let runs = (0..parts.len()).map(|i| parts.iter().cycle().skip(i).take(run).sum::<u64>());
    let device = runs.max().unwrap_or(0).max(in_runs.min(HEAD_SEGMENTS * largest)) + largest;
    Split { device, ram: host_ring(inputs, largest_read), disk: 0 }.folded(shares_ram)
}

/// Bytes of the ring in RAM for reads of up to so many bytes.
pub(crate) fn host_ring(inputs: &Inputs<'_>, largest_read: u64) -> u64 {
    let reads = 2 * inputs.hardware.disk.queue_depth.max(1) as u64;
    if inputs.hardware.shares_ram { 0 } else { reads * largest_read }
}

/// Cache pages of one micro-batch in one layer: its share of them, and one sequence of any length.
pub(crate) fn window_pages(inputs: &Inputs<'_>, setting: &Setting, pages: usize) -> usize {
    let rows = setting.batch + setting.tree_budget;
    let share = setting.micro_rows().min(rows) as f64 / rows as f64;
    let one = inputs.model.pages(inputs.workload.longest_with_tree(setting.tree_budget));
    ((pages as f64 * share).ceil() as usize + one).min(pages)
}

/// What the allocator is asked for besides weights, cache and rings; `away` says whether any layer's
/// cache is in RAM or on disk.
pub(crate) fn demand(
    inputs: &Inputs<'_>,
    costs: &Costs<'_>,
    setting: &Setting,
    pages: usize,
    away: [bool; 2],
) -> Demand {
    let page_bytes = costs.kinds.iter().map(|kind| kind.page_bytes[setting.format]).max();
    let [ram, disk] = away;
    let uploads = setting.kv_mode == KvMode::Staged && !inputs.hardware.shares_ram && ram;
    let windows = match uploads || disk {
        true => Windows {
            pages: window_pages(inputs, setting, pages),
            page_bytes: page_bytes.unwrap_or(0),
            disk,
        },
        false => Windows::default(),
    };
    Demand {
        batch: setting.batch,
        rows: setting.rows(),
        micro_rows: setting.micro_rows(),
        outputs: outputs(setting.batch, setting.tree_budget),
        pages,
        windows,
        host_attention: setting.kv_mode == KvMode::Host,
    }
}

/// Memory of a setting before weights and cache are placed.
pub(crate) fn reserved(inputs: &Inputs<'_>, setting: &Setting, demand: &Demand) -> Memory {
    let shares_ram = inputs.hardware.shares_ram;
    let vectors = Split::all(Tier::Device, inputs.model.vector_bytes);
    let workspace = inputs.footprint.workspace(demand);
    Memory {
        workspace: workspace.folded(shares_ram),
        fixed: (inputs.footprint.fixed() + vectors).folded(shares_ram),
        draft: draft(inputs, setting, demand.pages).folded(shares_ram),
        ..Memory::default()
    }
}

/// What trees take beside a cache of so many pages, their own rows of it left out.
fn draft(inputs: &Inputs<'_>, setting: &Setting, pages: usize) -> Split {
    let known = inputs.workload.speculation.as_ref().filter(|_| setting.tree_budget > 0);
    let Some(speculation) = known else { return Split::default() };
    let positions = inputs.model.page_positions;
    match setting.draft.and_then(|at| speculation.drafts.get(at)) {
        Some(draft) => {
            draft.memory(Draft::pages(pages, setting.tree_budget, positions), setting.batch)
        }
        None => Split::all(Tier::Ram, speculation.lookup_bytes * (pages * positions) as u64),
    }
}

/// Bytes by home of weights, and of the cache.
pub(crate) fn weights(model: &ModelShape, homes: &[Vec<Tier>]) -> Split {
    let mut split = Split::default();
    for (matrix, homes) in model.matrices().zip(homes) {
        for (&bytes, &home) in matrix.segments.iter().zip(homes) {
            *split.on_mut(home) += bytes;
        }
    }
    split
}

pub(crate) fn cache(costs: &Costs<'_>, setting: &Setting, pages: usize, homes: &[Tier]) -> Split {
    let mut split = Split::default();
    for kind in &costs.kinds {
        for &layer in &kind.layers {
            let page = match homes[layer] {
                Tier::Disk => kind.spilled_bytes[setting.format],
                _ => kind.page_bytes[setting.format],
            };
            *split.on_mut(homes[layer]) += page * pages as u64;
        }
    }
    split
}

/// Refuses a policy that asks the device for a larger buffer than it gives: a ring, or a layer's cache that it
/// can reach.
pub(crate) fn check_buffers(
    inputs: &Inputs<'_>,
    costs: &Costs<'_>,
    setting: &Setting,
    policy: &Policy,
) -> Result<(), PlanError> {
    let ring = policy.ring.on(inputs.hardware.near());
    let reached = |&home: &Tier| !policy.host_attention && home != Tier::Disk;
    let cache = match policy.kv_homes.iter().any(reached) {
        true => layer_cache(costs, setting, policy.pages),
        false => 0,
    };
    let most = inputs.footprint.buffer_bytes_max();
    for (what, bytes, remedy) in [
        ("ring of weights", ring, "give it more memory, so that less streams"),
        ("layer's cache", cache, "a smaller batch, or shorter sequences, take less"),
    ] {
        if bytes > most {
            let why = format!("a {what} takes {bytes} bytes, and a buffer of this device {most}");
            return Err(PlanError::BadInput(format!("{why} at most; {remedy}")));
        }
    }
    Ok(())
}

/// Bytes of the largest layer's cache.
pub(crate) fn layer_cache(costs: &Costs<'_>, setting: &Setting, pages: usize) -> u64 {
    let kinds = costs.kinds.iter().map(|kind| kind.page_bytes[setting.format]);
    kinds.max().unwrap_or(0) * pages as u64
}

/// Peak memory of a whole policy.
pub(crate) fn account(
    inputs: &Inputs<'_>,
    costs: &Costs<'_>,
    setting: &Setting,
    policy: &Policy,
) -> Memory {
    let away = [Tier::Ram, Tier::Disk].map(|tier| policy.kv_homes.contains(&tier));
    let demand = demand(inputs, costs, setting, policy.pages, away);
    let activations = inputs.footprint.activations(&demand);
    Memory {
        weights: policy.weights,
        kv: policy.kv,
        ring: policy.ring,
        activations: Split::all(policy.activations, activations),
        ..reserved(inputs, setting, &demand)
    }
}
