//! Exit codes, and errors as people read them.

use crate::backend::DeviceError;
use crate::job::JobError;
use crate::store::StoreError;
use crate::synth::SynthError;
use forebay_planner::PlanError;
use std::fmt::Write as _;
use std::io;

/// Everything was done.
pub(super) const DONE: u8 = 0;
/// Everything was done, and some requests failed.
pub(super) const FAILED_REQUESTS: u8 = 3;
/// Stopped by a signal; resumable.
pub(super) const INTERRUPTED: u8 = 130;

const OTHER: u8 = 1;
const USAGE: u8 = 2;
const DOES_NOT_FIT: u8 = 4;
const DEVICE: u8 = 5;
const FOREIGN_OUTPUT: u8 = 6;

/// What only the command line can find wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum CliError {
    /// Arguments that don't go together.
    #[error("{0}")]
    Usage(String),
    /// There is no plan.
    #[error("no plan: {0}")]
    Plan(#[from] PlanError),
}

/// The exit code that an error stands for.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if is_closed_stdout(error) {
        return DONE;
    }
    for cause in error.chain() {
        if let Some(error) = cause.downcast_ref::<DeviceError>() {
            let full = matches!(error, DeviceError::OutOfMemory { .. });
            return if full { DOES_NOT_FIT } else { DEVICE };
        }
        if let Some(StoreError::Space { .. } | StoreError::Memory { .. }) = cause.downcast_ref() {
            return DOES_NOT_FIT;
        }
        match cause.downcast_ref::<JobError>() {
            Some(JobError::Foreign { .. }) => return FOREIGN_OUTPUT,
            Some(JobError::NotAFile(_) | JobError::SameFile(_) | JobError::Profile { .. }) => {
                return USAGE;
            }
            _ => {}
        }
        match cause.downcast_ref::<SynthError>() {
            Some(error) if error.is_out_of_space() => return DOES_NOT_FIT,
            Some(SynthError::UnknownShape { .. } | SynthError::Exists(_)) => return USAGE,
            _ => {}
        }
        match cause.downcast_ref::<CliError>() {
            Some(CliError::Usage(_)) => return USAGE,
            Some(CliError::Plan(PlanError::DoesNotFit { .. })) => return DOES_NOT_FIT,
            Some(CliError::Plan(_)) => return USAGE,
            None => {}
        }
    }
    OTHER
}

/// An error with its causes. Messages often end with that of their cause, which is not said twice.
pub(super) fn told(error: &anyhow::Error) -> String {
    let mut messages: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if messages.last().is_none_or(|last| !last.contains(&cause)) {
            messages.push(cause);
        }
    }
    messages.join(": ")
}

/// What to print for an error; nothing where nobody reads any more.
pub fn report(error: &anyhow::Error) -> Option<String> {
    if is_closed_stdout(error) {
        return None;
    }
    let mut text = format!("forebay: error: {}\n", told(error));
    let hint = error.chain().find_map(|cause| cause.downcast_ref::<JobError>()?.hint());
    if let Some(hint) = hint {
        writeln!(text, "hint: {hint}").expect("writing to a string");
    }
    Some(text)
}

/// Whoever reads stdout has had enough (`forebay devices | head -1`): no error, for listings. A job
/// that loses its reader has not done its work, and its error is a [`JobError`].
fn is_closed_stdout(error: &anyhow::Error) -> bool {
    let direct = error.downcast_ref::<io::Error>();
    direct.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::ExecError;
    use crate::generate::EngineError;
    use anyhow::{Context, anyhow};

    #[test]
    fn errors_have_their_codes() {
        // As deep as they come from a pass, and from planning again.
        let pass = |error| EngineError::from(ExecError::from(error));
        let lost = || DeviceError::Lost("gone".to_string());
        let engine = JobError::Engine(Box::new(pass(lost())));
        assert_eq!(exit_code(&engine.into()), DEVICE);
        let planning = anyhow::Error::from(lost()).context("planning again");
        let engine = anyhow::Error::from(JobError::Engine(planning.into()));
        assert_eq!(exit_code(&engine), DEVICE);
        assert!(report(&engine).unwrap().contains("the engine stopped: planning again: "));
        let full = ExecError::from(StoreError::Memory { bytes: 1, source: io::Error::other("x") });
        let engine = JobError::Engine(Box::new(EngineError::from(full)));
        assert_eq!(exit_code(&engine.into()), DOES_NOT_FIT);
        let foreign = JobError::Foreign { path: "o".into(), reasons: vec!["x".to_string()] };
        let foreign = anyhow::Error::from(foreign).context("outer");
        assert_eq!(exit_code(&foreign), FOREIGN_OUTPUT);
        let report = report(&foreign).unwrap();
        assert_eq!(
            report,
            "forebay: error: outer: o belongs to another job: x\n\
             hint: --overwrite starts again; another -o keeps both\n"
        );
        assert_eq!(exit_code(&anyhow!("x")), OTHER);
        assert_eq!(exit_code(&CliError::Usage("x".to_string()).into()), USAGE);
    }

    #[test]
    fn a_reader_that_left_is_no_error() {
        let error = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(exit_code(&error.into()), DONE);
        let error: Result<(), _> = Err(io::Error::from(io::ErrorKind::NotFound));
        let error = error.context("reading").unwrap_err();
        assert_eq!(exit_code(&error), OTHER);
    }
}
