//! The interpreter of schedules: the only place where weights, cache pages, batches and a device meet.
//! In: steps and a batch. Out: logits, slice by slice.
//! Must never know: why a row is in the batch, how a token is chosen.

mod clock;
mod config;
mod error;
mod executor;
mod load;
mod pager;
mod reader;
mod shape;
mod streams;
mod trace;

pub use config::{ExecutorConfig, Resources};
pub use error::ExecError;
pub use executor::{Executor, Traffic};
pub use shape::{ExecutorFootprint, model_shape};
pub use trace::TraceEvent;
