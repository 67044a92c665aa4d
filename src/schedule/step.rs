//! The closed set of steps. A schedule is a list of them; `exec` is the one interpreter.

use crate::model::ModelSpec;

/// Weights that travel together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All tensors of a layer.
    Layer(usize),
    /// The final norm and the output head.
    Head,
}

/// One step of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Bring a part's weights from the store to the device.
    Load(Part),
    /// Fetch the rows' embeddings and write the batch's maps.
    Embed,
    /// Run one layer over all rows.
    Layer(usize),
    /// Final norm and logits of the rows that want them.
    Head,
}

/// Steps that make a model resident.
pub fn load_steps(spec: &ModelSpec) -> Vec<Step> {
    let layers = (0..spec.layers.len()).map(Part::Layer);
    layers.chain([Part::Head]).map(Step::Load).collect()
}

/// Steps of one pass over a resident model; `logits` says whether any row wants them.
pub fn pass_steps(spec: &ModelSpec, logits: bool) -> Vec<Step> {
    let layers = (0..spec.layers.len()).map(Step::Layer);
    [Step::Embed].into_iter().chain(layers).chain(logits.then_some(Step::Head)).collect()
}
