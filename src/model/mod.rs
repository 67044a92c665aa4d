//! What a network is: sizes, layers, tensor names, rotary frequencies.
//! In: hyperparameters read from a GGUF header or a config.json. Out: a [`ModelSpec`].
//! Must never know: files, devices, schedules.

mod spec;
mod tensor;

pub use spec::{LayerSpec, ModelSpec, RopeSpec};
pub use tensor::{Role, TensorId};
