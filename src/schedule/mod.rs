//! A pass as plain values: which rows, which cache pages, which steps in which order.
//! In: sequences' tokens and pages, the model's shape. Out: [`Batch`], a list of [`Step`]s.
//! Must never know: a device, a file, why a token was chosen.

mod batch;
mod pages;
mod step;

pub use batch::{Batch, Span};
pub use pages::PagePool;
pub use step::{Part, Step, load_steps, pass_steps};
