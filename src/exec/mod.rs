//! The interpreter of schedules: the only place where weights, cache pages, batches and a device meet.
//! In: steps and a batch. Out: logits, slice by slice.
//! Must never know: why a row is in the batch, how a token is chosen.

mod executor;
mod load;

pub use executor::{ExecError, Executor, ExecutorConfig};
