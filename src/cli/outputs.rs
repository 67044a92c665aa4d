//! What is written by name, and what must not be replaced by it.

use super::args::{PlanArgs, RunArgs};
use super::engine::Model;
use super::exit::CliError;
use super::flags::{EngineArgs, MemoryArgs};
use crate::job::{Manifest, check_writable, is_same_file};
use std::path::Path;

/// A file that is read, and what it is.
type Read<'a> = (&'static str, &'a Path);

/// Refuses an output, named by `flag`, that would replace a file that is read.
pub(super) fn refuse_to_replace<'a>(
    flag: &str,
    output: &Path,
    read: impl IntoIterator<Item = Read<'a>>,
) -> Result<(), CliError> {
    match read.into_iter().find(|(_, file)| is_same_file(output, file)) {
        Some((what, _)) => {
            let path = output.display();
            Err(CliError::Usage(format!("{flag} {path}: that is {what}; name another file")))
        }
        None => Ok(()),
    }
}

/// What every job is made from but its input.
fn read<'a>(engine: &'a EngineArgs, memory: &'a MemoryArgs, model: &'a Model) -> Vec<Read<'a>> {
    let named = [
        ("the policy of --plan", memory.plan.as_deref()),
        ("the profile", memory.profile.as_deref()),
        ("the draft", engine.draft.draft.as_deref().map(Path::new)),
    ];
    let named = named.into_iter().filter_map(|(what, file)| Some((what, file?)));
    named.chain(model.files.paths().map(|file| ("the model", file))).collect()
}

/// Refuses a policy that could not be written in the end, or would replace what the plan is made from.
pub(super) fn check_plan(args: &PlanArgs, model: &Model) -> anyhow::Result<()> {
    let Some(path) = &args.emit else { return Ok(()) };
    check_writable(path)?;
    let input = args.input.iter().map(|input| ("the input", Path::new(input)));
    Ok(refuse_to_replace(
        "--emit",
        path,
        read(&args.engine, &args.memory, model).into_iter().chain(input),
    )?)
}

/// Refuses outputs of a run that could not be written in the end, or would replace something else.
pub(super) fn check_run(args: &RunArgs, model: &Model) -> anyhow::Result<()> {
    let (input, output) = (Path::new(&args.input), Path::new(&args.output));
    let manifest = Manifest::path_beside(output);
    let mut others = read(&args.engine, &args.memory, model);
    refuse_to_replace("-o", output, others.iter().copied())?;
    others.extend([("the input", input), ("the output", output)]);
    others.push(("the output's manifest", &manifest));
    for (flag, path) in [("--summary", &args.summary), ("--trace", &args.trace)] {
        let Some(path) = path else { continue };
        check_writable(path)?;
        refuse_to_replace(flag, path, others.iter().copied())?;
        others.push(("the summary", path));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_read_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
        std::fs::write(&a, "x").unwrap();
        let read = || [("the input", a.as_path()), ("the profile", b.as_path())];
        let roundabout = dir.path().join(".").join("a");
        let error = refuse_to_replace("--emit", &roundabout, read()).unwrap_err().to_string();
        assert!(error.contains("--emit") && error.contains("that is the input"), "{error}");
        assert!(refuse_to_replace("--emit", &dir.path().join("c"), read()).is_ok());
    }
}
