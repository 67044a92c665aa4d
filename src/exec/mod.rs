//! The interpreter of schedules: the only place where weights, cache pages, batches and a device meet.
//! In: steps and a batch. Out: logits, slice by slice.
//! Must never know: why a row is in the batch, how a token is chosen.

mod clock;
mod config;
mod ends;
mod error;
mod executor;
mod host;
mod load;
mod mover;
mod open;
mod pager;
mod reader;
mod resident;
mod resting;
mod reused;
mod shape;
mod sketch;
mod streams;
mod trace;
mod traffic;
mod uploads;

pub use config::{ExecutorConfig, Resources};
pub use error::ExecError;
pub use executor::Executor;
pub use shape::{ExecutorFootprint, model_shape};
pub use trace::TraceEvent;
pub use traffic::Traffic;
