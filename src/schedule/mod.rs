//! A pass as plain values: which rows, which cache pages, which steps in which order.
//! In: sequences' tokens and pages, the model's shape, homes of weights. Out: [`Batch`], a
//! [`StreamPlan`], a list of [`Step`]s; checked, and played on an event clock.
//! Must never know: a device, a file, why a token was chosen.

mod batch;
mod check;
mod pages;
mod part;
mod plan;
mod ring;
mod simulate;
mod step;
#[cfg(test)]
mod tests;

pub use batch::{Batch, CacheMove, Span, TreeSpan, moved_slots};
pub use check::{ScheduleFault, check};
pub use pages::PagePool;
pub use part::{Homes, Matrices, Part, head_tensor};
pub use plan::{PartPlan, Piecework, RingSizes, Stream, StreamPlan};
pub use ring::{Gate, Piece, Place, RingTooSmall, lay_out, ring_bytes_min};
pub use simulate::{PageSeconds, Simulation, StepCosts};
pub use step::{
    PassShape, Step, head_steps, pass_steps, prologue, resident_steps, streams_ahead, uploads_ahead,
};
