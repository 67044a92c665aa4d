//! The results file: whose it is, what it already holds, appending to it.

use super::manifest::Manifest;
use super::prior::{self, Prior, PriorError};
use super::whole_file::is_same_file;
use super::writer::{Sink, Writer};
use super::{Input, JobError};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// How an existing output is treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputOptions {
    /// Start again, whatever is there.
    pub overwrite: bool,
    /// Run failed lines again.
    pub retry_errors: bool,
    /// Put results in the order of input lines at the end.
    pub ordered: bool,
}

/// An open output. While it lives, a lock keeps other runs away.
pub struct Output {
    writer: Writer,
    path: Option<PathBuf>,
    prior: Prior,
    ordered: bool,
    requests: Option<u64>,
    /// Of a job that starts anew, until it does: what was there before stays as long as nothing replaces it.
    fresh: Option<Manifest>,
    /// Earlier files of the same name, open because closing them would release their locks.
    _replaced: Vec<File>,
}

impl Output {
    /// Opens `path` (`-` is standard output) for the results of `input`. If it holds results of the
    /// same job, as `manifest` tells, they stay and their lines are not run again.
    pub fn open(
        path: &str,
        input: &Input,
        manifest: &Manifest,
        options: OutputOptions,
    ) -> Result<Output, JobError> {
        if path == "-" {
            return stream(Box::new(io::stdout()), "standard output", input, options);
        }
        let path = Path::new(path);
        let fail = |source| JobError::Open { path: path.to_path_buf(), source };
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                return Err(JobError::IsDirectory(path.to_path_buf()));
            }
            Ok(metadata) if !metadata.is_file() => {
                let file = File::options().write(true).open(path).map_err(fail)?;
                return stream(Box::new(file), &path.display().to_string(), input, options);
            }
            _ => {}
        }
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(fail)?;
        let path = &fs::canonicalize(path).map_err(fail)?;
        if input.path().is_some_and(|input| is_same_file(input, path)) {
            return Err(JobError::SameFile(path.clone()));
        }
        lock(&file, path)?;
        let requests = input.digest().map(|digest| digest.requests);
        let (file, prior, replaced, fresh) = claim(file, path, input, manifest, options)?;
        Ok(Output {
            writer: Writer::new(Sink::File(file), path.display().to_string()),
            path: Some(path.clone()),
            prior,
            ordered: options.ordered,
            requests,
            fresh: fresh.then(|| manifest.clone()),
            _replaced: replaced,
        })
    }

    /// Empties the output of a job that starts anew, and says what its answers depend on.
    pub(super) fn begin(&mut self) -> Result<(), JobError> {
        let (Some(manifest), Some(path)) = (self.fresh.take(), &self.path) else { return Ok(()) };
        let open_error = |source| JobError::Open { path: path.clone(), source };
        // In this order: results never stand beside a manifest that is not theirs.
        if let Some(file) = self.writer.file() {
            file.set_len(0).map_err(open_error)?;
            file.sync_all().map_err(open_error)?;
        }
        manifest.store(&Manifest::path_beside(path))
    }

    /// Lines answered by earlier runs: how many well, how many with an error.
    pub fn resumed(&self) -> (u64, u64) {
        (self.prior.ok, self.prior.failed)
    }

    /// Lines to answer in all, where the input is a file.
    pub fn requests(&self) -> Option<u64> {
        self.requests
    }

    /// Whether every line has its answer already.
    pub fn is_complete(&self) -> bool {
        self.requests == Some(self.prior.ok + self.prior.failed)
    }

    /// Whether an earlier run answered this input line.
    pub(super) fn has(&self, line: u64) -> bool {
        self.prior.has(line)
    }

    pub(super) fn append(&mut self, line: &[u8]) -> Result<(), JobError> {
        self.writer.append(line)
    }

    pub(super) fn tick(&mut self) -> Result<(), JobError> {
        self.writer.tick()
    }

    pub(super) fn sync(&mut self) -> Result<(), JobError> {
        self.writer.sync()
    }

    /// Syncs, and where every line is answered puts them in order if that was asked for.
    pub fn finish(mut self, complete: bool) -> Result<(), JobError> {
        // One that was stopped before its first pass leaves what was there.
        if complete {
            self.begin()?;
        }
        self.writer.sync()?;
        if let (true, true, Some(file), Some(path)) =
            (complete, self.ordered, self.writer.file(), &self.path)
        {
            prior::put_in_order(file, path).map_err(|source| self.writer.error(source))?;
        }
        Ok(())
    }
}

fn stream(
    stream: Box<dyn io::Write>,
    name: &str,
    input: &Input,
    options: OutputOptions,
) -> Result<Output, JobError> {
    if options.ordered || options.retry_errors {
        let option = if options.ordered { "--ordered" } else { "--retry-errors" };
        return Err(JobError::NotAFile(option));
    }
    Ok(Output {
        writer: Writer::new(Sink::Stream(stream), name.to_string()),
        path: None,
        prior: Prior::default(),
        ordered: false,
        requests: input.digest().map(|digest| digest.requests),
        fresh: None,
        _replaced: Vec::new(),
    })
}

fn lock(file: &File, path: &Path) -> Result<(), JobError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(JobError::Busy(path.to_path_buf())),
        Err(TryLockError::Error(error)) => {
            tracing::warn!("{} can't be locked ({error}); start no second run", path.display());
            Ok(())
        }
    }
}

/// Makes a locked output this job's: takes up what the same job left, or says that it is to begin anew.
fn claim(
    file: File,
    path: &Path,
    input: &Input,
    manifest: &Manifest,
    options: OutputOptions,
) -> Result<(File, Prior, Vec<File>, bool), JobError> {
    let open_error = |source| JobError::Open { path: path.to_path_buf(), source };
    let foreign = |reasons| JobError::Foreign { path: path.to_path_buf(), reasons };
    let manifest_path = Manifest::path_beside(path);
    let length = file.metadata().map_err(open_error)?.len();
    if options.overwrite || length == 0 {
        return Ok((file, Prior::default(), Vec::new(), true));
    }
    let there = match Manifest::load(&manifest_path) {
        Ok(Some(there)) => there,
        Ok(None) => {
            let name = manifest_path.display();
            return Err(foreign(vec![format!("it is not empty and has no manifest ({name})")]));
        }
        Err(reason) => return Err(foreign(vec![reason])),
    };
    let reasons = there.differences(manifest);
    if !reasons.is_empty() {
        return Err(foreign(reasons));
    }
    let Some(digest) = input.digest() else {
        return Err(foreign(vec![format!("{} can't be resumed", input.name())]));
    };
    let taken = prior::take_up(file, path, digest.lines, options.retry_errors);
    let (file, prior, replaced) = taken.map_err(|error| match error {
        PriorError::Io(source) => open_error(source),
        PriorError::Foreign(reason) => foreign(vec![reason]),
    })?;
    Ok((file, prior, replaced, false))
}
