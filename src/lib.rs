//! forebay runs language models larger than the GPU they run on over files of prompts.
//!
//! The rooms, lowest first; imports point down only (`tests/it/tidy.rs` holds the table):
//!
//! - [`quant`]: weight formats and their packed order
//! - [`tokenizer`]: text to token ids and back, chat templates
//! - [`sample`]: logits to a token, by keyed noise
//! - [`speculate`]: draft trees: growth, verification, sizes
//! - [`kernel`]: the closed set of kernel calls and their operands
//! - [`model`]: what a network is: shapes, tensor names, one description of a layer
//! - [`store`]: where bytes live off the device: GGUF, safetensors, the Hugging Face cache
//! - [`synth`]: model files with pseudo-random weights in the shape of known models
//! - [`backend`]: devices: `reference`, `cpu`, `gpu`
//! - [`schedule`]: a pass as a value: which rows, which cache pages, which steps
//! - [`forward`]: one transformer pass as kernel calls
//! - [`exec`]: the interpreter of schedules
//! - [`generate`]: the one loop over tokens
//! - [`profile`]: measures what the machine can do, for the planner
//! - [`job`]: every text file read or written
//! - [`cli`]: the command line

pub mod backend;
pub mod cli;
pub mod exec;
pub mod forward;
pub mod generate;
pub mod job;
pub mod kernel;
pub mod model;
pub mod profile;
pub mod quant;
pub mod sample;
pub mod schedule;
pub mod speculate;
pub mod store;
pub mod synth;
pub mod tokenizer;
