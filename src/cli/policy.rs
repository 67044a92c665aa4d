//! The policy of `--plan`, held against what this run was asked for.

use super::attention;
use super::exit::CliError;
use super::prepare::Setup;
use crate::job::PolicyFile;
use forebay_planner::{Pins, Policy};
use std::path::Path;

/// The policy in the file at `path`; refused where it is another model's, or an argument says otherwise.
pub(super) fn load(path: &Path, setup: &Setup<'_>, pins: &Pins) -> anyhow::Result<Policy> {
    let file = PolicyFile::load(path).map_err(CliError::Usage)?;
    let own = setup.model.files.fingerprint();
    let fault = if file.model != own {
        Some(format!(
            "the policy is for a model with fingerprint {}, this one has {own}; emit it again with \
             `forebay plan`",
            file.model
        ))
    } else {
        attention_fault(&file.policy, setup)
            .or_else(|| pin_fault(&file.policy, pins))
            .or_else(|| trees_fault(&file.policy, setup, pins))
    };
    match fault {
        Some(fault) => Err(CliError::Usage(format!("{}: {fault}", path.display())).into()),
        None => Ok(file.policy),
    }
}

fn attention_fault(policy: &Policy, setup: &Setup<'_>) -> Option<String> {
    let [own, other] = [policy.host_attention, setup.host_attention].map(attention::name);
    (own != other)
        .then(|| format!("the policy has attention on the {own}, and this run on the {other}"))
}

/// A pinned part of a plan that the policy has otherwise.
fn pin_fault(policy: &Policy, pins: &Pins) -> Option<String> {
    let numbers = [
        ("--batch", pins.batch, policy.batch),
        ("--micro-batch", pins.micro_batch, policy.micro_batch),
        ("--prefill-chunk", pins.prefill_chunk, policy.prefill_chunk),
        ("--speculate", pins.tree_budget, policy.tree_budget),
    ];
    for (flag, asked, own) in numbers {
        if let Some(asked) = asked.filter(|asked| *asked != own) {
            return Some(format!("the policy has {own} where {flag} says {asked}; leave one out"));
        }
    }
    let splits = [("--weights", pins.weights), ("--kv", pins.kv)];
    let pinned = splits.iter().find(|(_, split)| !split.is_free());
    pinned.map(|(flag, _)| format!("the policy places all; leave {flag} out, or --plan"))
}

/// Trees of another draft than this run's.
fn trees_fault(policy: &Policy, setup: &Setup<'_>, pins: &Pins) -> Option<String> {
    if policy.tree_budget == 0 {
        return None;
    }
    let nodes = policy.tree_budget;
    let Some(draft) = &setup.draft else {
        let with = if policy.draft.is_some() { "MODEL" } else { "lookup" };
        return Some(format!(
            "the policy has trees of {nodes} nodes; name their draft with --draft {with}"
        ));
    };
    match (policy.draft, draft.is_model()) {
        (Some(_), false) => {
            Some("the policy's trees are a model's, and --draft is lookup".to_string())
        }
        (None, true) => {
            Some(format!("the policy's trees are of lookup, and --draft is {}", draft.name()))
        }
        (Some(own), true) if pins.draft.is_some_and(|home| home != own) => {
            Some(format!("the policy has the draft on {own}, and --draft-home says otherwise"))
        }
        _ => None,
    }
}
