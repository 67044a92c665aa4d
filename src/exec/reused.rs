//! What passes are made of, kept for the next.

use crate::schedule::{Batch, PassShape, Step, StreamPlan, pass_steps};
use std::sync::Arc;

/// What the last pass was made of, for the next that is made alike: passes of one shape allocate nothing.
#[derive(Default)]
pub(super) struct Reused {
    pub(super) micro: Option<Arc<Vec<Batch>>>,
    /// Micro-batches that are not of use at the moment.
    spare: Vec<Batch>,
    pub(super) outputs: Vec<(usize, u32)>,
    /// The steps of a shape.
    pub(super) steps: (PassShape, Vec<Step>),
}

impl Reused {
    /// Cuts a pass into micro-batches; see [`Batch::split`]. Lists its outputs and steps.
    pub(super) fn fill(
        &mut self,
        batch: &Batch,
        (rows, pages): (usize, usize),
        plan: &StreamPlan,
        slice: usize,
    ) {
        // The thread that attends on the host may still have the last one.
        let last = self.micro.take().filter(|micro| Arc::strong_count(micro) == 1);
        let micro = Arc::get_mut(self.micro.insert(last.unwrap_or_default()));
        let micro = micro.expect("nobody else has it");
        self.spare.append(micro);
        batch.split_into(rows, pages, &mut self.spare, micro);
        self.outputs.clear();
        for (index, batch) in micro.iter().enumerate() {
            self.outputs.extend(batch.outputs.iter().map(|&row| (index, row)));
        }
        let slices = self.outputs.len().div_ceil(slice);
        let shape = PassShape { micro_batches: micro.len(), slices };
        if self.steps.0 != shape || self.steps.1.is_empty() {
            self.steps = (shape, pass_steps(plan, shape));
        }
    }
}
