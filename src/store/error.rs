//! Why a model could not be opened or read.

use crate::model::ModelError;
use std::io;
use std::path::Path;

/// What went wrong with a model's files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system refused.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A file does not follow its format.
    #[error("{path}: {at}: expected {expected}, found {found}; {remedy}")]
    Malformed {
        /// The file.
        path: String,
        /// The place: a key, a tensor or a byte offset.
        at: String,
        /// What the format wants there.
        expected: String,
        /// What is there.
        found: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A key without which the network is unknown.
    #[error("{path}: key `{key}` is missing; convert the model again with a current converter")]
    MissingKey {
        /// The file.
        path: String,
        /// The key.
        key: String,
    },
    /// A tensor that the network needs.
    #[error("{path}: tensor `{tensor}` is missing ({architecture} needs it); get the whole model")]
    MissingTensor {
        /// The file or folder.
        path: String,
        /// The tensor's name.
        tensor: String,
        /// The architecture.
        architecture: String,
    },
    /// A tensor whose shape does not follow from the hyperparameters.
    #[error(
        "{path}: tensor `{tensor}` is {found} (rows x columns), the header makes it {expected}; \
         the file is damaged or was edited"
    )]
    Shape {
        /// The file.
        path: String,
        /// The tensor's name.
        tensor: String,
        /// Shape in the file.
        found: String,
        /// Shape that the hyperparameters imply.
        expected: String,
    },
    /// An element type that forebay does not compute with.
    #[error(
        "{path}: tensor `{tensor}` has type {found}, which is not supported; use a file with \
         F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K or Q6_K (Q4_K_M files are)"
    )]
    TensorType {
        /// The file.
        path: String,
        /// The tensor's name.
        tensor: String,
        /// The type's name.
        found: String,
    },
    /// A tensor that the architecture, as computed here, has no use for.
    #[error(
        "{path}: tensor `{tensor}` is not used by this architecture as forebay computes it, and \
         results without it would be wrong; use another model"
    )]
    ExtraTensor {
        /// The file or folder.
        path: String,
        /// The tensor's name.
        tensor: String,
    },
    /// Hyperparameters that make no network.
    #[error("{path}: {source}")]
    Model {
        /// The file.
        path: String,
        /// What is wrong with them.
        source: ModelError,
    },
    /// Parts of a split model that are not there.
    #[error("{path}: the model has {count} parts, missing: {missing}; put them beside the first")]
    MissingParts {
        /// The part that was opened.
        path: String,
        /// How many parts there are.
        count: usize,
        /// Names of the missing ones.
        missing: String,
    },
    /// A file of a folder.
    #[error("{path}: {file} is missing; {remedy}")]
    MissingFile {
        /// The folder.
        path: String,
        /// The file.
        file: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Nothing found under the reference.
    #[error("model `{reference}` not found: {detail}")]
    NotFound {
        /// What the user wrote.
        reference: String,
        /// Where it was looked for, what is there, how to get it.
        detail: String,
    },
    /// A file of a model that is no longer what was opened.
    #[error(
        "{path}: it was replaced or written to after it was opened; leave a model as it is while it \
         is in use, and run the same command again"
    )]
    Replaced {
        /// The file.
        path: String,
    },
    /// A transfer of the disk tier that failed twice.
    #[error(
        "{path}: cannot {action} {bytes} bytes at offset {offset}: {source}; check the disk, then \
         run the same command again: finished results are kept"
    )]
    Disk {
        /// The file.
        path: String,
        /// `read`, `write` or `sync`.
        action: &'static str,
        /// Length of the transfer.
        bytes: usize,
        /// Where in the file it began.
        offset: u64,
        /// The system's answer.
        source: io::Error,
    },
    /// A file of the disk tier that has no room.
    #[error(
        "{path}: {what} needs {needed} bytes and {available} are {limit}, {missing} bytes are \
         missing; {remedy}"
    )]
    Space {
        /// The folder.
        path: String,
        /// What the file is for.
        what: &'static str,
        /// Bytes of the file.
        needed: u64,
        /// Bytes there are.
        available: u64,
        /// What bounds them.
        limit: &'static str,
        /// Bytes short.
        missing: u64,
        /// What to do.
        remedy: &'static str,
    },
    /// Memory for reading that the system does not give.
    #[error("cannot allocate {bytes} bytes to read into: {source}; lower --ram")]
    Memory {
        /// Bytes asked for.
        bytes: usize,
        /// The system's answer.
        source: io::Error,
    },
    /// The model has no such tensor.
    #[error("{path}: rows {start}..{end} of `{tensor}` were asked for, it has {rows}")]
    Rows {
        /// The file or folder.
        path: String,
        /// The tensor.
        tensor: String,
        /// First row asked for.
        start: usize,
        /// One past the last row asked for.
        end: usize,
        /// Rows there are.
        rows: usize,
    },
}

/// What to do about a file that breaks off or contradicts itself.
pub(super) const DAMAGED: &str = "the file is damaged or incomplete, get it again";

impl StoreError {
    pub(super) fn io(path: &Path, action: &'static str, source: io::Error) -> StoreError {
        StoreError::Io { path: path.display().to_string(), action, source }
    }

    pub(super) fn malformed(
        path: &str,
        at: impl Into<String>,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> StoreError {
        StoreError::Malformed {
            path: path.to_string(),
            at: at.into(),
            expected: expected.into(),
            found: found.to_string(),
            remedy: DAMAGED,
        }
    }
}
