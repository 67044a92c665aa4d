//! What a policy takes: the sums of its terms, and where the event clock sees it wait.

use crate::cost::Costs;
use crate::inputs::Inputs;
use crate::passes::Pass;
use crate::pipeline::Stream;
use crate::plan::Terms;
use crate::policy::{Policy, Tier};
use crate::setting::{Placement, Setting};
use std::cmp::Ordering;

/// A policy with its price.
#[derive(Clone, Debug)]
pub(crate) struct Priced {
    pub(crate) setting: Setting,
    pub(crate) policy: Policy,
    pub(crate) prefill_seconds: f64,
    pub(crate) decode_seconds: f64,
    pub(crate) passes: f64,
    /// Tokens that a decoding sequence gains by a pass.
    pub(crate) tokens_per_pass: f64,
    pub(crate) terms: Terms,
}

impl Priced {
    pub(crate) fn seconds(&self) -> f64 {
        self.prefill_seconds + self.decode_seconds
    }

    /// The faster is less.
    pub(crate) fn by_seconds(&self, other: &Priced) -> Ordering {
        self.seconds().total_cmp(&other.seconds())
    }
}

/// Prices a policy over the passes of a job.
pub(crate) fn price(
    inputs: &Inputs<'_>,
    costs: &Costs<'_>,
    setting: &Setting,
    policy: Policy,
    passes: &[Pass],
) -> Priced {
    let placement = placement_of(inputs, costs, &policy);
    let stream = Stream::new(inputs, costs, &policy, &placement);
    let (mut prefill_seconds, mut decode_seconds) = (0.0, 0.0);
    let (mut count, mut sum) = (0.0, Terms::default());
    for pass in passes {
        let mut terms = costs.base(setting, pass) + costs.placed(setting, pass, &placement);
        terms.draft = costs.draft_seconds(setting, pass, &placement.layers);
        let seconds = costs.seconds(setting, pass, &terms) + stream.stall(setting, pass);
        let prompt = pass.prompt_rows / pass.rows();
        prefill_seconds += pass.count * seconds * prompt;
        decode_seconds += pass.count * seconds * (1.0 - prompt);
        count += pass.count;
        sum += terms * pass.count;
    }
    drop(stream);
    Priced {
        setting: *setting,
        policy,
        prefill_seconds,
        decode_seconds,
        passes: count,
        tokens_per_pass: tokens_per_pass(setting, passes),
        terms: sum,
    }
}

fn tokens_per_pass(setting: &Setting, passes: &[Pass]) -> f64 {
    let sum = |of: fn(&Pass) -> f64| passes.iter().map(|pass| pass.count * of(pass)).sum::<f64>();
    let sequences = sum(|pass| pass.sequences);
    if setting.tree_budget == 0 || sequences == 0.0 { 1.0 } else { sum(|p| p.gained) / sequences }
}

/// The fractions that a policy realises.
pub(crate) fn placement_of(inputs: &Inputs<'_>, costs: &Costs<'_>, policy: &Policy) -> Placement {
    let head = policy.homes.len() - 1;
    let head_bytes = |tier: Tier| -> u64 {
        let segments = inputs.model.head.segments.iter().zip(&policy.homes[head]);
        segments.filter(|&(_, &home)| home == tier).map(|(bytes, _)| bytes).sum()
    };
    let own_memory = !inputs.hardware.shares_ram;
    Placement {
        layers: Tier::ALL
            .map(|tier| (policy.weights.on(tier) - head_bytes(tier)) as f64 / costs.layer_bytes),
        head: Tier::ALL.map(|tier| head_bytes(tier) as f64 / costs.head_bytes),
        kv: costs.kinds.iter().map(|kind| kind.shares(&policy.kv_homes)).collect(),
        activations: f64::from(u8::from(own_memory && policy.activations == Tier::Ram)),
    }
}
