//! Which format the KV cache gets. Tokens depend on it, so it never depends on a budget.

use super::exit::CliError;
use super::prepare::Setup;
use crate::job::{Manifest, PolicyFile};
use crate::kernel::KvFormat;
use forebay_planner::HardwareProfile;
use std::path::Path;

/// What `--kv-format` may be.
pub(super) const NAMES: [&str; 4] = ["f16", "k8v4", "q4", AUTO];

pub(super) const AUTO: &str = "auto";

/// Key of the format in manifests and summaries.
pub(super) const KEY: &str = "kv_format";

/// The format that is asked for. Where nothing is said, that of `--plan`, else 16 bits.
pub(super) fn resolve(setup: &Setup<'_>, resumed: Option<KvFormat>) -> anyhow::Result<KvFormat> {
    let plan = match &setup.memory.plan {
        Some(path) => Some((path, PolicyFile::load(path).map_err(CliError::Usage)?.policy)),
        None => None,
    };
    let planned = match &plan {
        Some((path, policy)) => Some(KvFormat::from_name(&policy.kv_format).ok_or_else(|| {
            let (path, name) = (path.display(), &policy.kv_format);
            CliError::Usage(format!("{path}: kv_format: expected {}, found {name}", known()))
        })?),
        None => None,
    };
    match setup.engine.kv_format.as_deref() {
        None => Ok(planned.unwrap_or_default()),
        Some(AUTO) => match resumed.or(planned) {
            Some(format) => Ok(format),
            None => super::kv_loss::choose(setup),
        },
        Some(name) => {
            let format = KvFormat::from_name(name).unwrap_or_default();
            match planned {
                Some(planned) if planned != format => Err(CliError::Usage(format!(
                    "--kv-format {format}: the policy of --plan has {planned}; leave one of them out"
                ))
                .into()),
                _ => Ok(format),
            }
        }
    }
}

fn known() -> String {
    KvFormat::ALL.map(KvFormat::name).join(", ")
}

/// The format of the job whose results `output` holds.
pub(super) fn recorded(output: &str) -> Option<KvFormat> {
    let found = Manifest::recorded(Path::new(output), KEY)?;
    KvFormat::from_name(found.as_str()?)
}

/// Whether a profile has rates of its own for a format, not only ones that could stand for them.
pub(super) fn has_rates(profile: &HardwareProfile, format: KvFormat) -> bool {
    let sides = [&profile.device, &profile.host];
    sides.iter().all(|side| side.attention.iter().any(|rate| rate.format == format.name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::ProfileFile;

    #[test]
    fn rates_of_another_format_are_none() {
        let example =
            concat!(env!("CARGO_MANIFEST_DIR"), "/examples/profiles/pcie4-rtx4090-like.json");
        let mut profile = ProfileFile::load(Path::new(example)).unwrap().profile;
        assert!(has_rates(&profile, KvFormat::F16) && !has_rates(&profile, KvFormat::Q4));
        profile.device.attention[0].format = KvFormat::Q4.name().to_string();
        assert!(!has_rates(&profile, KvFormat::F16) && !has_rates(&profile, KvFormat::Q4));
    }
}
