//! Model files with pseudo-random weights in the shape of known models, for trying capacity and speed
//! at full size without the model.
//! In: a shape, a quantization, a seed. Out: a valid GGUF file; equal inputs give equal bytes.
//! Must never know: devices, schedules, what a model says.

mod error;
mod header;
mod shapes;
mod types;
mod vocabulary;
mod weights;
mod write;

pub use error::SynthError;
pub use shapes::{shape, shape_names};
pub use types::Quant;
pub use write::WriteOptions;

use crate::model::{Convention, Hparams, ModelSpec, RopeScaling};
use crate::store::gguf::TensorPlan;
use weights::Content;

/// Spread of norm weights around 1, and of biases around 0.
const VECTOR_STD: f32 = 0.1;

/// A model to be written: what its header says, and what each tensor holds.
pub struct Synthetic {
    hparams: Hparams,
    spec: ModelSpec,
    quant: Quant,
    seed: u64,
    tensors: Vec<(TensorPlan, Content)>,
}

impl Synthetic {
    /// A model of this shape. Matrices have mean 0 and deviation 1/sqrt(columns), so that activations
    /// keep their scale through every layer; norms lie around 1, biases around 0.
    pub fn new(mut hparams: Hparams, quant: Quant, seed: u64) -> Result<Synthetic, SynthError> {
        // What a GGUF header has no key for follows from the family.
        (hparams.convention, hparams.query_scalar) = (Convention::Gguf, None);
        let spec = spec_of(&hparams)?;
        vocabulary::check(&hparams)?;
        let mut tensors = rope_factors(&hparams, &spec)?;
        tensors.extend(spec.tensors().into_iter().map(|id| {
            let (rows, cols) = spec.shape(id);
            let dtype = quant.dtype(&spec, id);
            match id.role {
                role if role.is_vector() => {
                    let mean = if role.is_norm() { 1.0 } else { 0.0 };
                    let content = Content::Random { mean, std: VECTOR_STD };
                    (TensorPlan::vector(id.gguf_name(), cols), content)
                }
                _ => {
                    let content = Content::Random { mean: 0.0, std: 1.0 / (cols as f32).sqrt() };
                    (TensorPlan::matrix(id.gguf_name(), dtype, rows, cols), content)
                }
            }
        }));
        Ok(Synthetic { hparams, spec, quant, seed, tensors })
    }

    /// Bytes of all tensors.
    pub fn weight_bytes(&self) -> u64 {
        self.tensors.iter().map(|(tensor, _)| tensor.bytes()).sum()
    }
}

fn spec_of(hparams: &Hparams) -> Result<ModelSpec, SynthError> {
    ModelSpec::from_hparams(hparams).map_err(|error| SynthError::model(&hparams.name, &error))
}

/// Llama 3's scaling is stored as a factor for each rotary frequency: the plain ones by the scaled.
fn rope_factors(
    hparams: &Hparams,
    spec: &ModelSpec,
) -> Result<Vec<(TensorPlan, Content)>, SynthError> {
    if !matches!(hparams.rope_scaling, RopeScaling::Llama3 { .. } | RopeScaling::Factors(_)) {
        return Ok(Vec::new());
    }
    let plain = spec_of(&Hparams { rope_scaling: RopeScaling::None, ..hparams.clone() })?;
    let pairs = plain.ropes[0].inv_freq.iter().zip(&spec.ropes[0].inv_freq);
    let factors: Vec<f32> = pairs.map(|(plain, scaled)| plain / scaled).collect();
    let tensor = TensorPlan::vector("rope_freqs.weight", factors.len());
    Ok(vec![(tensor, Content::Values(factors))])
}

#[cfg(test)]
mod tests;
