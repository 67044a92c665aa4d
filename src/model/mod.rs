//! What a network is: sizes, layers, tensor names, rotary frequencies.
//! In: hyperparameters read from a GGUF header or a config.json. Out: a [`ModelSpec`].
//! Must never know: files, devices, schedules.

mod build;
mod error;
mod family;
mod hparams;
mod rope;
mod spec;
mod tensor;

pub use error::ModelError;
pub use family::{Family, supported_architectures};
pub use hparams::{Convention, Hparams, RopeScaling};
pub use spec::{LayerSpec, ModelSpec, RopeSpec};
pub use tensor::{Role, TensorId};
