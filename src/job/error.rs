//! What stops a whole job. A bad input line does not: it becomes that line's error.

use std::io;
use std::path::PathBuf;

/// What stops a job.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// The input can't be read.
    #[error("cannot read {path}: {source}")]
    Input {
        /// The input.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The output can't be opened or created.
    #[error("cannot open {} for writing: {source}", path.display())]
    Open {
        /// The output.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The output is a folder.
    #[error("{} is a directory; name a file", .0.display())]
    IsDirectory(PathBuf),
    /// The output is the input.
    #[error("{} is both input and output", .0.display())]
    SameFile(PathBuf),
    /// Writing a result, the manifest or the summary failed.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Another process holds the output.
    #[error("{} is being written by another run", .0.display())]
    Busy(PathBuf),
    /// The output holds the results of something else.
    #[error("{} belongs to another job: {}", path.display(), reasons.join("; "))]
    Foreign {
        /// The output.
        path: PathBuf,
        /// Each difference, both sides named.
        reasons: Vec<String>,
    },
    /// The option needs a file as output.
    #[error("{0} needs -o FILE: standard output and devices can't be rewritten")]
    NotAFile(&'static str),
    /// A hardware profile that is none.
    #[error("{path} is no hardware profile: {reason}")]
    Profile {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The engine stopped.
    #[error("the engine stopped: {0}")]
    Engine(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl JobError {
    /// What the user can do about it, where that is not plain from the message.
    pub fn hint(&self) -> Option<String> {
        match self {
            JobError::Foreign { .. } => {
                Some("--overwrite starts again; another -o keeps both".to_string())
            }
            JobError::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull => Some(
                "free some space and run the same command again: finished results are kept".into(),
            ),
            JobError::Write { source, .. } if source.kind() == io::ErrorKind::BrokenPipe => {
                Some("whatever read the results went away".into())
            }
            JobError::Open { path, source } if source.kind() == io::ErrorKind::NotFound => {
                Some(format!("create the folder of {} first", path.display()))
            }
            JobError::Profile { .. } => {
                Some("`forebay calibrate -o FILE` writes one of this machine".to_string())
            }
            JobError::Engine(_) => Some(
                "finished results are kept; the same command, without --overwrite, resumes".into(),
            ),
            _ => None,
        }
    }

    pub(super) fn write(path: &std::path::Path, source: io::Error) -> JobError {
        JobError::Write { path: path.display().to_string(), source }
    }
}
