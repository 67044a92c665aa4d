//! Where attention is computed: by the device, or by the host over a cache in RAM. The two round
//! differently, so it is decided once for a job, as its device is.

use super::exit::CliError;
use super::log;
use super::planning::Planned;
use super::prepare::Setup;
use crate::backend::Device;
use crate::job::{Manifest, PolicyFile, Survey};
use forebay_planner::Split;
use std::path::Path;

/// What `--attention` may be.
pub(super) const NAMES: [&str; 3] = [DEVICE, HOST, AUTO];

const DEVICE: &str = "device";
const HOST: &str = "host";
const AUTO: &str = "auto";

/// Key of the choice in manifests and summaries.
pub(super) const KEY: &str = "attention";

/// The name of a choice.
pub(super) fn name(on_host: bool) -> &'static str {
    if on_host { HOST } else { DEVICE }
}

/// The choice of the job whose results `output` holds.
pub(super) fn recorded(output: &str) -> Option<bool> {
    Some(Manifest::recorded(Path::new(output), KEY)?.as_str()? == HOST)
}

/// Whether the host attends. Where nothing is said, as `--plan` has it, else not.
pub(super) fn resolve(
    setup: &Setup<'_>,
    device: &mut dyn Device,
    resumed: Option<bool>,
    survey: impl FnOnce() -> anyhow::Result<Survey>,
) -> anyhow::Result<bool> {
    if device.info().computes_in_ram() {
        tracing::debug!("the cpu device is the host: --attention says nothing here");
        return Ok(false);
    }
    let planned = match &setup.memory.plan {
        Some(path) => Some(PolicyFile::load(path).map_err(CliError::Usage)?.policy.host_attention),
        None => None,
    };
    match setup.engine.attention.as_deref() {
        None => Ok(planned.unwrap_or(false)),
        Some(AUTO) => match resumed.or(planned) {
            Some(on_host) => Ok(on_host),
            None => cheaper(setup, device, &survey()?),
        },
        Some(asked) => match planned {
            Some(planned) if name(planned) != asked => Err(CliError::Usage(format!(
                "--attention {asked}: the policy of --plan has {}; leave one of them out",
                name(planned)
            ))
            .into()),
            _ => Ok(asked == HOST),
        },
    }
}

/// Plans the job both ways; the one that is predicted to be faster, or that fits.
fn cheaper(setup: &Setup<'_>, device: &mut dyn Device, survey: &Survey) -> anyhow::Result<bool> {
    let profile = setup.profile(device)?;
    let ask = |host_attention: bool| -> anyhow::Result<Planned> {
        let own = Setup { host_attention, draft: setup.draft.clone(), ..*setup };
        own.plan(&own.question(&profile, survey)?, device, Split::default())
    };
    let (on_device, on_host) = (ask(false), ask(true));
    let (chosen, why) = match (on_device, on_host) {
        (Ok(on_device), Ok(on_host)) => {
            let [device, host] = [on_device, on_host].map(|planned| planned.plan.seconds());
            let why = format!("predicted: device {device:.1} s, host {host:.1} s");
            (host < device, why)
        }
        (Ok(_), Err(_)) => (false, "with host it does not fit".to_string()),
        (Err(_), Ok(_)) => (true, "with device it does not fit".to_string()),
        (Err(error), Err(_)) => return Err(error),
    };
    if !setup.quiet {
        log::say(&format!("forebay: --attention auto takes {}; {why}", name(chosen)));
    }
    Ok(chosen)
}
