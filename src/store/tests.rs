//! Whole models: the real ones, where they are on this machine.

use super::ModelFiles;
use crate::kernel::RopeStyle;
use crate::model::{Role, TensorId};
use crate::quant::{DType, dequantize_row};
use crate::tokenizer::TokenizerSource;
use std::env;
use std::path::PathBuf;

/// The named real model, or `None` (with a line saying so) where it is absent.
fn real_model(name: &str) -> Option<ModelFiles> {
    let folder = env::var_os("FOREBAY_MODELS").map(PathBuf::from).or_else(|| {
        let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))?;
        Some(cache.join("forebay/models"))
    })?;
    let path = folder.join(format!("{name}.gguf"));
    if path.exists() {
        return Some(ModelFiles::open(&path.display().to_string()).expect("a valid model"));
    }
    let required = env::var_os("FOREBAY_MODELS_REQUIRED").is_some_and(|v| v == "1");
    assert!(!required, "{} is missing", path.display());
    eprintln!("skipped: {} is missing", path.display());
    None
}

/// Sizes of one real model: hidden, layers, vocabulary, heads, key/value heads, head width.
fn check_sizes(name: &str, sizes: [usize; 6]) -> Option<ModelFiles> {
    let files = real_model(name)?;
    let spec = files.spec();
    let layer = &spec.layers[0];
    let found =
        [spec.hidden, spec.layers.len(), spec.vocab, layer.heads, layer.kv_heads, layer.head_dim];
    assert_eq!(found, sizes, "{name}");
    for id in spec.tensors() {
        let info = files.tensor(id).expect("every listed tensor is there");
        let mut bytes = Vec::new();
        files.read(id, info.rows - 1..info.rows, &mut bytes).expect("the last row");
        let mut row = vec![0.0; info.cols];
        dequantize_row(info.dtype, &bytes, &mut row);
        assert!(row.iter().all(|x| x.is_finite()), "{name} {id:?}");
    }
    let Ok(TokenizerSource::Gguf(vocab)) = files.tokenizer_source() else {
        panic!("{name} has a vocabulary");
    };
    assert!(vocab.tokens.len() <= spec.vocab);
    assert_eq!(files.fingerprint().len(), 64);
    assert!(files.total_bytes() > 0 && !files.metadata().is_empty());
    Some(files)
}

#[test]
fn smollm2_opens() {
    let Some(files) = check_sizes("smollm2-135m", [576, 30, 49152, 9, 3, 64]) else { return };
    let spec = files.spec();
    assert_eq!(spec.ropes[0].style, RopeStyle::Adjacent);
    assert!(spec.tied_head && files.tensor(TensorId::global(Role::Output)).is_none());
    let query = files.tensor(TensorId::of_layer(0, Role::Query)).expect("query");
    assert_eq!((query.dtype, query.rows, query.cols), (DType::Q4_1, 576, 576));
}

#[test]
fn qwen2_opens() {
    let Some(files) = check_sizes("qwen2.5-coder-0.5b", [896, 24, 151936, 14, 2, 64]) else {
        return;
    };
    assert_eq!(files.spec().ropes[0].style, RopeStyle::Halves);
    let bias = files.read_vector(TensorId::of_layer(3, Role::KeyBias)).expect("bias");
    assert_eq!(bias.len(), 128);
    check_sizes("qwen2.5-coder-1.5b", [1536, 28, 151936, 12, 2, 128]);
}

#[test]
fn gemma3_opens() {
    let Some(files) = check_sizes("gemma3-270m", [640, 18, 262144, 4, 1, 256]) else { return };
    let spec = files.spec();
    assert_eq!(spec.embed_scale, 640f32.sqrt());
    assert_eq!(spec.norm_offset, 0.0);
    let windows: Vec<bool> = spec.layers.iter().map(|l| l.window.is_some()).collect();
    assert_eq!(windows.iter().filter(|w| **w).count(), 15);
    assert!(!windows[5] && !windows[11] && !windows[17]);
    assert_eq!(spec.layers[0].window, Some(512));
    let base = |rope: usize| spec.ropes[rope].inv_freq[1].powf(-128.0);
    assert!((base(spec.layers[0].rope) / 1e4 - 1.0).abs() < 1e-3);
    assert!((base(spec.layers[5].rope) / 1e6 - 1.0).abs() < 1e-3);
    assert_eq!(spec.layers[0].attention_scale, 1.0 / 16.0);
}
