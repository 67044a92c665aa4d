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

fn tiny(name: &str, file: &str) -> ModelFiles {
    let path = format!("{}/tests/fixtures/tiny/{name}/{file}", env!("CARGO_MANIFEST_DIR"));
    ModelFiles::open(&path).expect("a valid fixture")
}

/// A model that was merged into one file may have the index of its old parts beside it.
#[test]
fn one_file_counts_before_an_old_index() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let from = format!("{}/tests/fixtures/tiny/llama", env!("CARGO_MANIFEST_DIR"));
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(format!("{from}/{name}"), folder.path().join(name)).expect("copied");
    }
    let index = r#"{"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}"#;
    std::fs::write(folder.path().join("model.safetensors.index.json"), index).expect("written");
    ModelFiles::open(&folder.path().display().to_string()).expect("the whole file");
}

/// A Hugging Face folder and the GGUF file of the same weights: the same network but for the
/// conventions of rotation and norms, and the same values.
#[test]
fn both_formats_give_the_same_network() {
    for name in ["llama", "qwen2", "qwen3", "gemma3"] {
        let (folder, gguf) = (tiny(name, ""), tiny(name, "model.gguf"));
        let (mut a, mut b) = (folder.spec().clone(), gguf.spec().clone());
        assert_eq!(a.norm_offset, if name == "gemma3" { 1.0 } else { 0.0 });
        let adjacent = if name == "llama" { RopeStyle::Adjacent } else { RopeStyle::Halves };
        assert_eq!((a.ropes[0].style, b.ropes[0].style), (RopeStyle::Halves, adjacent));
        for spec in [&mut a, &mut b] {
            spec.name.clear();
            spec.norm_offset = 0.0;
            for rope in &mut spec.ropes {
                rope.style = RopeStyle::Halves;
                // Factors were rounded to f32 on their way through the file.
                let round = |f: &mut f32| *f = (*f * 1e6).round() / 1e6;
                rope.inv_freq.iter_mut().for_each(round);
            }
        }
        assert_eq!(a, b, "{name}");
        for id in a.tensors() {
            let permuted = name == "llama" && matches!(id.role, Role::Query | Role::Key);
            let values = |files: &ModelFiles| files.read_vector(id).expect("readable");
            let (x, y) = (values(&folder), values(&gguf));
            if permuted {
                assert_ne!(x, y, "{name} {id:?} is stored for adjacent pairs");
                assert_eq!(unpermuted(&y, a.hidden, a.layers[0].head_dim), x);
            } else {
                assert_eq!(x, y, "{name} {id:?}");
            }
        }
        assert!(folder.tensors().iter().all(|t| t.used) && gguf.tensors().iter().all(|t| t.used));
        match (folder.tokenizer_source(), gguf.tokenizer_source()) {
            (
                Ok(TokenizerSource::HuggingFace { eos_ids, .. }),
                Ok(TokenizerSource::Gguf(vocab)),
            ) => assert_eq!((eos_ids, vocab.tokens.len()), (vec![299], 300)),
            other => panic!("{name}: {other:?}"),
        }
    }
}

/// Rows of each head from adjacent pairs back to halves.
fn unpermuted(values: &[f32], cols: usize, head_dim: usize) -> Vec<f32> {
    let rows = values.len() / cols;
    let source = |row: usize| {
        let (head, within) = (row / head_dim, row % head_dim);
        let (half, pair) = (within / (head_dim / 2), within % (head_dim / 2));
        head * head_dim + 2 * pair + half
    };
    (0..rows).flat_map(|row| &values[source(row) * cols..][..cols]).copied().collect()
}

#[test]
fn rows_are_bounded_and_ranges_are_exact() {
    let files = tiny("llama", "model.gguf");
    let id = TensorId::of_layer(1, Role::Up);
    let (mut all, mut some) = (Vec::new(), Vec::new());
    files.read(id, 0..64, &mut all).expect("all rows");
    files.read(id, 3..5, &mut some).expect("two rows");
    assert_eq!(some, all[3 * 256..5 * 256]);
    let error = files.read(id, 60..65, &mut some).expect_err("too many").to_string();
    assert!(error.contains("rows 60..65 of `blk.1.ffn_up.weight`") && error.contains("has 64"));
    assert!(files.read(TensorId::of_layer(9, Role::Up), 0..1, &mut some).is_err());
    assert_eq!(files.total_bytes(), files.tensors().iter().map(|t| t.bytes).sum::<u64>() - 32);
    fn shared<T: Send + Sync>(_: &T) {}
    shared(&files);
}
