//! Jobs: prompt files in, result lines out, and the manifest that makes a killed run resumable.
//! In: paths, defaults, a [`Worker`] and an [`Encode`]. Out: result lines, an [`Outcome`].
//! Must never know: models, devices, how text becomes token ids.

mod error;
mod fields;
mod input;
mod learned;
mod limits;
mod lines;
mod manifest;
mod output;
mod parse;
mod policy_file;
mod prior;
mod profile_file;
mod profile_text;
mod prompt;
mod reply;
mod rules;
mod run;
mod summary;
mod survey;
mod task;
#[cfg(test)]
mod tests;
mod trace_file;
mod whole_file;
mod writer;

pub use error::JobError;
pub use input::{Digest, Input, InputFormat};
pub use learned::{LEARNED_MIN, Learned};
pub use limits::{
    FREQUENCY_PENALTY, MIN_P, PRESENCE_PENALTY, REPETITION_PENALTY, Range, TEMPERATURE, TOP_P,
};
pub use manifest::Manifest;
pub use output::{Output, OutputOptions};
pub use parse::{LINE_BYTES, ParseConfig, Parser, check_stops};
pub use policy_file::PolicyFile;
pub use profile_file::ProfileFile;
pub use run::{Counters, Encode, Job, Outcome, Progress, Worker};
pub use summary::{
    Clocks, Homes, MovedBytes, PeakBytes, PhaseSeconds, Placement, RequestCounts, Seconds, Summary,
    TierBytes, TokensPerSecond,
};
pub use survey::{Lengths, Survey, survey};
pub use task::{Defaults, Endpoint, LineError, Message, Prompt, Task};
pub use trace_file::{TraceRow, write_trace};
pub use whole_file::{check_writable, is_same_file};
