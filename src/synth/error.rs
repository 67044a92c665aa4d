//! Why a model was not written.

use crate::model::ModelError;
use crate::store::StoreError;
use std::io;
use std::path::{Path, PathBuf};

/// What went wrong with a synthetic model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SynthError {
    /// Neither a known name nor a file.
    #[error("shape `{name}` is neither a file nor known; known: {known}")]
    UnknownShape {
        /// What the user wrote.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A file that does not describe a shape.
    #[error("{path}: {problem}; `forebay synth --help` lists the fields")]
    ShapeFile {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A config.json that is not understood.
    #[error("{0}")]
    Config(#[from] StoreError),
    /// Sizes that make no network.
    #[error("shape `{shape}`: {problem}")]
    Model {
        /// Name of the shape.
        shape: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A vocabulary without room for the bytes, or with too many tokens.
    #[error("shape `{shape}`: vocabulary size is {found}, expected {least} to {most}")]
    Vocabulary {
        /// Name of the shape.
        shape: String,
        /// Its vocabulary.
        found: usize,
        /// Least that holds every byte and the control tokens.
        least: usize,
        /// Most that is written.
        most: usize,
    },
    /// The output is there already.
    #[error("{} is there already; --overwrite replaces it, another -o keeps it", .0.display())]
    Exists(PathBuf),
    /// The output is a folder, a device or a pipe.
    #[error("{} is not a regular file; name another output", .0.display())]
    NotAFile(PathBuf),
    /// Less free space than the file takes.
    #[error(
        "{path} takes {need_bytes} bytes, and its file system has {free_bytes} free: {} are \
         missing; free them, or choose another folder, a smaller shape or a smaller --quant",
        need_bytes - free_bytes
    )]
    DoesNotFit {
        /// The output.
        path: String,
        /// Bytes of the file.
        need_bytes: u64,
        /// Bytes there are.
        free_bytes: u64,
    },
    /// The caller asked to stop; nothing is left.
    #[error("interrupted")]
    Interrupted,
    /// The operating system refused.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// The file or folder.
        path: String,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

impl SynthError {
    pub(super) fn model(shape: &str, error: &ModelError) -> SynthError {
        let problem = match error {
            // Its own words are for files that nobody wrote by hand.
            ModelError::OutOfRange { field, found, expected } => {
                format!("{field} is {found}, expected {expected}")
            }
            other => other.to_string(),
        };
        SynthError::Model { shape: shape.to_string(), problem }
    }

    pub(super) fn io(
        path: &Path,
        action: &'static str,
    ) -> impl Fn(io::Error) -> SynthError + use<> {
        let path = path.display().to_string();
        move |source| SynthError::Io { path: path.clone(), action, source }
    }

    /// Whether the disk is too small.
    pub fn is_out_of_space(&self) -> bool {
        match self {
            SynthError::DoesNotFit { .. } => true,
            SynthError::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }
}
