//! The linear program: where weights, cache and activations go, the sizes of passes given.
//!
//! Times are affine in the fractions, and the time of a pass is built from sums and maxima of them
//! with positive weights, so each maximum becomes a variable that is at least either side.

use crate::cost::Costs;
use crate::inputs::PinnedSplit;
use crate::memory::RingShape;
use crate::passes::Pass;
use crate::plan::Terms;
use crate::policy::Tier;
use crate::setting::{Fractions, Head, KvMode, Placement, Setting};
use good_lp::{
    Expression, ProblemVariables, Solution, SolverModel, Variable, constraint, microlp, variable,
};

/// Bytes that the program may place.
pub(crate) struct Room {
    /// What is free on each tier before weights, cache, activations and ring.
    pub(crate) free: Fractions,
    /// The residual stream.
    pub(crate) activations: f64,
    /// Cache of each kind of layer.
    pub(crate) kv: Vec<f64>,
    pub(crate) ring: RingShape,
    /// Most bytes of the ring.
    pub(crate) ring_max: f64,
}

/// Parts of a placement that are decided already.
#[derive(Clone, Debug, Default)]
pub(crate) struct Decided {
    pub(crate) weights: PinnedSplit,
    pub(crate) kv_total: PinnedSplit,
    pub(crate) kv: Option<Vec<Fractions>>,
    pub(crate) activations: Option<f64>,
}

/// Waiting for transfers weighs this much more than the time of a pass: of equal plans, the one
/// that moves less.
const TIE: f64 = 1e-3;

/// Variables: layers and head on (device, RAM), activations in RAM, then each kind's cache.
const LAYERS: usize = 0;
const HEAD: usize = 2;
const ACTIVATIONS: usize = 4;
const KV: usize = 5;

/// The fastest placement within `room`, over passes weighted by their counts; `None` if none fits.
pub(crate) fn solve(
    costs: &Costs<'_>,
    setting: &Setting,
    passes: &[Pass],
    room: &Room,
    decided: &Decided,
) -> Option<Placement> {
    let mut vars = ProblemVariables::new();
    let x = fractions(&mut vars, costs, setting, decided);
    let ring = vars.add(variable().min(0.0));
    let mut rows = Vec::new();
    let bases: Vec<Terms> = passes.iter().map(|pass| costs.base(setting, pass)).collect();
    let scale = 1.0 / bases.iter().map(Terms::compute).fold(1e-12, f64::max);
    let count: f64 = passes.iter().map(|pass| pass.count).sum();
    let mut objective = Expression::from(0.0);
    for (pass, base) in passes.iter().zip(bases) {
        let affine = Affine::new(costs, setting, pass, base, &x, scale);
        objective +=
            epigraph(&mut vars, &mut rows, costs, setting, pass, &affine) * (pass.count / count);
    }
    let mut problem = vars.minimise(objective).using(microlp);
    for row in rows {
        problem.add_constraint(row);
    }
    for row in memory_rows(costs, setting, room, &x, ring) {
        problem.add_constraint(row);
    }
    for row in pin_rows(costs, room, decided, &x) {
        problem.add_constraint(row);
    }
    let solution = problem.solve().ok()?;
    let values: Vec<f64> = x.iter().map(|&v| solution.value(v).clamp(0.0, 1.0)).collect();
    Some(placement(&values))
}

/// A placement from the values of the variables; what is neither on the device nor in RAM is on disk.
fn placement(x: &[f64]) -> Placement {
    let split = |at: usize| [x[at], x[at + 1], (1.0 - x[at] - x[at + 1]).max(0.0)];
    Placement {
        layers: split(LAYERS),
        head: split(HEAD),
        activations: x[ACTIVATIONS],
        kv: (KV..x.len()).step_by(2).map(split).collect(),
    }
}

fn fractions(
    vars: &mut ProblemVariables,
    costs: &Costs<'_>,
    setting: &Setting,
    decided: &Decided,
) -> Vec<Variable> {
    let shares_ram = costs.hardware.shares_ram;
    let mut add = |low: f64, high: f64| vars.add(variable().min(low).max(high));
    let device = if shares_ram { 0.0 } else { 1.0 };
    let mut x: Vec<Variable> = [device, 1.0, device, 1.0].map(|high| add(0.0, high)).to_vec();
    if setting.head == Head::Stays {
        let stays = if shares_ram { [0.0, 1.0] } else { [1.0, 0.0] };
        x.splice(HEAD.., stays.map(|f| add(f, f)));
    }
    x.push(match decided.activations {
        Some(fixed) => add(fixed, fixed),
        None => add(0.0, device),
    });
    for kind in 0..costs.kinds.len() {
        let near = if shares_ram { Tier::Ram } else { Tier::Device };
        let fixed = match (&decided.kv, setting.kv_home(near)) {
            (Some(kv), _) => Some([kv[kind][0], kv[kind][1]]),
            (None, Some(Tier::Device)) => Some([1.0, 0.0]),
            (None, Some(_)) => Some([0.0, 1.0]),
            (None, None) => None,
        };
        match fixed {
            Some(fixed) => x.extend(fixed.map(|f| add(f, f))),
            None => x.extend([device, 1.0].map(|high| add(0.0, high))),
        }
    }
    x
}

/// Terms of a pass as expressions in the variables: linear, so two points give each coefficient.
struct Affine {
    terms: Terms,
    slopes: Vec<Terms>,
    x: Vec<Variable>,
    scale: f64,
}

impl Affine {
    fn new(
        costs: &Costs<'_>,
        setting: &Setting,
        pass: &Pass,
        base: Terms,
        x: &[Variable],
        scale: f64,
    ) -> Affine {
        let mut at = vec![0.0; x.len()];
        let origin = costs.placed(setting, pass, &placement(&at));
        let slopes = (0..x.len()).map(|i| {
            at[i] = 1.0;
            let terms = costs.placed(setting, pass, &placement(&at)) + origin * -1.0;
            at[i] = 0.0;
            terms
        });
        Affine { slopes: slopes.collect(), terms: base + origin, x: x.to_vec(), scale }
    }

    fn of(&self, part: fn(&Terms) -> f64) -> Expression {
        let mut sum = Expression::from(part(&self.terms) * self.scale);
        for (slope, &x) in self.slopes.iter().zip(&self.x) {
            let slope = part(slope) * self.scale;
            if slope != 0.0 {
                sum.add_mul(slope, x);
            }
        }
        sum
    }
}

/// The time of a pass as in [`Costs::seconds`], and a little for every transfer.
fn epigraph(
    vars: &mut ProblemVariables,
    rows: &mut Vec<good_lp::Constraint>,
    costs: &Costs<'_>,
    setting: &Setting,
    pass: &Pass,
    affine: &Affine,
) -> Expression {
    let [disk, link, host] = [Terms::disk, Terms::link, |t: &Terms| t.host].map(|f| affine.of(f));
    let tie = (disk.clone() + link.clone() + host.clone()) * TIE;
    let mut beside = |a: Expression, b: Expression, overlap: f64| {
        let longer = vars.add(variable().min(0.0));
        rows.push(constraint!(longer >= a.clone()));
        rows.push(constraint!(longer >= b.clone()));
        (a + b) * (1.0 - overlap) + overlap * longer
    };
    let mut time = affine.of(Terms::compute);
    if setting.kv_mode == KvMode::Host {
        time = beside(time, host, Costs::host_overlap(setting, pass));
    }
    if !costs.hardware.shares_ram {
        time = beside(time, link, costs.hardware.upload_overlap);
    }
    beside(time, disk, costs.hardware.disk.overlap) + tie
}

/// Weights, cache, activations and ring within what is free; a ring that holds a run of streamed parts.
fn memory_rows(
    costs: &Costs<'_>,
    setting: &Setting,
    room: &Room,
    x: &[Variable],
    ring: Variable,
) -> Vec<good_lp::Constraint> {
    let unit = 1.0 / (costs.layer_bytes + costs.head_bytes);
    let shares_ram = costs.hardware.shares_ram;
    let weights = |tier: usize| {
        x[LAYERS + tier] * (costs.layer_bytes * unit) + x[HEAD + tier] * (costs.head_bytes * unit)
    };
    let kv = |tier: usize| {
        let kinds = room.kv.iter().enumerate();
        kinds.map(|(i, &bytes)| x[KV + 2 * i + tier] * (bytes * unit)).sum::<Expression>()
    };
    let activations = room.activations * unit;
    let in_ram = x[ACTIVATIONS] * activations;
    let mut device = weights(0) + kv(0) - in_ram.clone() + activations;
    let mut ram = weights(1) + kv(1) + in_ram;
    // Where memory is shared the residual stream and the ring are in RAM whatever is said of them.
    if shares_ram {
        device -= activations;
        ram += activations + ring;
    } else {
        device += ring;
    }
    let cached: f64 = room.kv.iter().sum::<f64>() * unit;
    let streamed = |at: usize| {
        let resident = if shares_ram { x[at] + x[at + 1] } else { Expression::from(x[at]) };
        1.0 - resident
    };
    let RingShape { layers, head, beside_head } = room.ring;
    // No more than all weights, so that a limit that is none stays a number to calculate with.
    let ring_max = (room.ring_max * unit).min(1.0);
    let by_head = streamed(HEAD) * (head * unit) + streamed(LAYERS) * (beside_head * unit);
    let mut rows = vec![
        constraint!(device <= room.free[0] * unit),
        constraint!(ram <= room.free[1] * unit),
        constraint!(cached - kv(0) - kv(1) <= room.free[2] * unit),
        constraint!(ring >= streamed(LAYERS) * (layers * unit)),
        constraint!(ring >= by_head),
        constraint!(ring <= ring_max),
    ];
    for at in [LAYERS, HEAD].into_iter().chain((KV..x.len()).step_by(2)) {
        let floor = if at < KV { setting.weight_floor } else { setting.kv_floor };
        let fast = x[at] + x[at + 1];
        rows.push(if floor == Tier::Disk {
            constraint!(fast <= 1.0)
        } else {
            constraint!(fast == 1.0)
        });
        if floor == Tier::Device {
            rows.push(constraint!(x[at + 1] <= 0.0));
        }
    }
    rows
}

/// Pinned fractions of all weights, and of the cache's bytes.
fn pin_rows(
    costs: &Costs<'_>,
    room: &Room,
    decided: &Decided,
    x: &[Variable],
) -> Vec<good_lp::Constraint> {
    let mut rows = Vec::new();
    let whole = costs.layer_bytes + costs.head_bytes;
    let (layers, head) = (costs.layer_bytes / whole, costs.head_bytes / whole);
    let weights = [0, 1].map(|tier| x[LAYERS + tier] * layers + x[HEAD + tier] * head);
    pin(&mut rows, weights, &decided.weights);
    if decided.kv.is_none() {
        let cached: f64 = room.kv.iter().sum();
        let kinds = || room.kv.iter().enumerate();
        let kv = [0, 1].map(|tier| {
            kinds().map(|(i, &bytes)| x[KV + 2 * i + tier] * (bytes / cached)).sum::<Expression>()
        });
        pin(&mut rows, kv, &decided.kv_total);
    }
    rows
}

fn pin(rows: &mut Vec<good_lp::Constraint>, [device, ram]: [Expression; 2], pins: &PinnedSplit) {
    if let Some(fraction) = pins.device {
        rows.push(constraint!(device.clone() == fraction));
    }
    if let Some(fraction) = pins.ram {
        rows.push(constraint!(ram.clone() == fraction));
    }
    // With both others pinned the third follows, and an equation that repeats them helps nobody.
    if let (Some(fraction), false) = (pins.disk, pins.device.is_some() && pins.ram.is_some()) {
        rows.push(constraint!(1.0 - device - ram == fraction));
    }
}

#[cfg(test)]
mod tests;
