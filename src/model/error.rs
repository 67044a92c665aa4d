//! Why a description of a network was refused.

/// What is wrong with a model's hyperparameters.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// No family of that name.
    #[error("architecture `{found}` is not supported; supported: {supported}")]
    UnknownArchitecture {
        /// What the file says.
        found: String,
        /// What would have worked.
        supported: String,
    },
    /// A value that no network of this kind can have.
    #[error(
        "{field} is {found}, expected {expected}; the file is damaged or made for another program"
    )]
    OutOfRange {
        /// Which hyperparameter.
        field: &'static str,
        /// The value in the file.
        found: String,
        /// What is allowed.
        expected: String,
    },
    /// A feature that is known and not computed.
    #[error("{field} is {found}, which is not supported; {remedy}")]
    Unsupported {
        /// Which hyperparameter.
        field: String,
        /// The value in the file.
        found: String,
        /// What to do instead.
        remedy: String,
    },
}
