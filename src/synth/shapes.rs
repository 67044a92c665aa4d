//! Sizes of models: known ones by name (`shapes.json` beside this file), others from a file.

use super::SynthError;
use crate::model::{Convention, Hparams, RopeScaling};
use crate::store::config_hparams;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The known shapes, each in the form that a file has. OPT's feed-forward network has two matrices; the
/// shapes like it have the three of `llama`, two thirds as wide.
const KNOWN: &str = include_str!("shapes.json");
/// Longest shape file that is read.
const BYTES_MAX: u64 = 1 << 20;

/// What a shape file holds.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shape {
    architecture: String,
    layers: usize,
    hidden: usize,
    heads: usize,
    kv_heads: Option<usize>,
    head_dim: Option<usize>,
    feed_forward: usize,
    vocab: usize,
    #[serde(default = "default_context")]
    context: usize,
    #[serde(default = "default_eps")]
    norm_eps: f64,
    rope_base: Option<f64>,
    rope_scaling: Option<Scaling>,
    window: Option<usize>,
    #[serde(default)]
    tied_head: bool,
}

/// `{"linear": factor}` or `{"llama3": factor}`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Scaling {
    Linear(f64),
    Llama3(f64),
}

fn default_context() -> usize {
    8192
}

fn default_eps() -> f64 {
    1e-5
}

impl Shape {
    fn hparams(self, name: &str) -> Hparams {
        let rope_scaling = match self.rope_scaling {
            None => RopeScaling::None,
            Some(Scaling::Linear(factor)) => RopeScaling::Linear(factor),
            // All Llama 3 models share the rest.
            Some(Scaling::Llama3(factor)) => {
                RopeScaling::Llama3 { factor, low: 1.0, high: 4.0, original_context: 8192.0 }
            }
        };
        Hparams {
            convention: Convention::Gguf,
            architecture: self.architecture,
            name: name.to_string(),
            vocab: self.vocab,
            hidden: self.hidden,
            context_len: self.context,
            layers: self.layers,
            heads: vec![self.heads],
            kv_heads: self.kv_heads.into_iter().collect(),
            feed_forward: vec![self.feed_forward],
            key_dim: self.head_dim,
            value_dim: None,
            rotary_dim: None,
            norm_eps: self.norm_eps,
            rope_base: self.rope_base,
            rope_base_local: None,
            rope_scaling,
            window: self.window,
            window_pattern: None,
            windowed_layers: None,
            query_scalar: None,
            activation: None,
            qkv_bias: false,
            tied_head: Some(self.tied_head),
        }
    }
}

fn known() -> Map<String, Value> {
    serde_json::from_str(KNOWN).unwrap_or_default()
}

/// Names of the known shapes.
pub fn shape_names() -> Vec<String> {
    known().into_iter().map(|(name, _)| name).collect()
}

/// The shape of this name, or that of a file: a shape file, or a config.json (or the folder with it) as
/// transformers writes it.
pub fn shape(reference: &str) -> Result<Hparams, SynthError> {
    if let Some(value) = known().remove(reference) {
        return parse(reference, reference, value);
    }
    let mut path = Path::new(reference).to_path_buf();
    if path.is_dir() {
        path.push("config.json");
    }
    if !path.exists() {
        let (name, known) = (reference.to_string(), shape_names().join(", "));
        return Err(SynthError::UnknownShape { name, known });
    }
    let shown = path.display().to_string();
    let problem = |problem: String| SynthError::ShapeFile { path: shown.clone(), problem };
    let mut bytes = Vec::new();
    let file = File::open(&path).map_err(SynthError::io(&path, "open the shape"))?;
    let read = file.take(BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(SynthError::io(&path, "read the shape"))?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(problem(format!("a shape has at most {BYTES_MAX} bytes, this file has more")));
    }
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|error| problem(format!("expected valid JSON, found {error}")))?;
    let name = Path::new(reference).file_stem().unwrap_or_default().to_string_lossy();
    parse(&shown, &name, value)
}

/// A shape that is written in `path`.
fn parse(path: &str, name: &str, value: Value) -> Result<Hparams, SynthError> {
    if value.get("model_type").is_some() {
        return Ok(config_hparams(path, name, &value)?);
    }
    let shape: Shape = serde_json::from_value(value).map_err(|error| SynthError::ShapeFile {
        path: path.to_string(),
        problem: error.to_string(),
    })?;
    Ok(shape.hparams(name))
}
