//! Shapes, and files read back.

use super::*;
use crate::store::ModelFiles;
use std::path::Path;
use std::sync::atomic::AtomicBool;

fn write(model: &Synthetic, path: &Path, header_only: bool) -> u64 {
    let options = WriteOptions { overwrite: true, header_only };
    model.write(path, options, &AtomicBool::new(false), &mut |_, _| {}).expect("written")
}

fn parse(text: &str) -> Result<Synthetic, String> {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("small.json");
    std::fs::write(&path, text).expect("writes");
    let hparams = shape(path.to_str().expect("text")).map_err(|error| error.to_string())?;
    Synthetic::new(hparams, Quant::Pure(crate::quant::DType::Q4_0), 0).map_err(|e| e.to_string())
}

/// Parameters of the published checkpoints, but for the last two: the sizes they are named after.
#[test]
fn known_shapes_have_the_parameters_of_their_models() {
    let want: [(&str, u64); 19] = [
        ("llama-3-8b", 8_030_261_248),
        ("llama-3-70b", 70_553_706_496),
        ("llama-3.2-1b", 1_235_814_400),
        ("llama-3.2-3b", 3_212_749_824),
        ("qwen2.5-0.5b", 494_032_768),
        ("qwen2.5-1.5b", 1_543_714_304),
        ("qwen2.5-7b", 7_615_616_512),
        ("qwen2.5-14b", 14_770_033_664),
        ("qwen2.5-32b", 32_763_876_352),
        ("qwen2.5-72b", 72_706_203_648),
        ("qwen3-8b", 8_190_735_360),
        ("qwen3-14b", 14_768_307_200),
        ("qwen3-32b", 32_762_123_264),
        ("gemma-3-1b", 999_885_952),
        ("gemma-3-4b", 3_880_099_328),
        ("gemma-3-12b", 11_765_788_416),
        ("gemma-3-27b", 27_009_002_240),
        ("opt-30b-like", 30_044_134_400),
        ("opt-175b-like", 174_566_289_408),
    ];
    assert_eq!(shape_names(), want.map(|(name, _)| name.to_string()));
    for (name, parameters) in want {
        let spec = spec_of(&shape(name).expect("known")).expect("valid");
        let count = |id| spec.shape(id).0 as u64 * spec.shape(id).1 as u64;
        assert_eq!(spec.tensors().into_iter().map(count).sum::<u64>(), parameters, "{name}");
    }
}

/// A header says all that the shape said, for each architecture.
#[test]
fn what_is_written_is_the_shape_that_was_asked_for() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("m.gguf");
    for name in ["llama-3.2-1b", "qwen2.5-0.5b", "qwen3-8b", "gemma-3-4b", "opt-175b-like"] {
        let quant = Quant::from_name("q4_k_m").expect("known");
        let model = Synthetic::new(shape(name).expect("known"), quant, 0).expect("valid");
        let bytes = write(&model, &path, true);
        assert_eq!(std::fs::metadata(&path).expect("there").len(), bytes);
        let files = ModelFiles::open(path.to_str().expect("text")).expect("opens");
        let mut want = model.spec.clone();
        want.name = format!("synthetic {name}");
        let mut found = files.spec().clone();
        for (want, found) in want.ropes.iter_mut().zip(&mut found.ropes) {
            // The factors of llama3 scaling are stored in f32.
            for (want, found) in want.inv_freq.iter().zip(&mut found.inv_freq) {
                assert!((*want - *found).abs() <= 1e-6 * want.abs(), "{name}: {want} {found}");
                *found = *want;
            }
        }
        assert_eq!(found, want, "{name}");
        let weights = files.tensors().iter().map(|tensor| tensor.bytes).sum::<u64>();
        assert_eq!(weights, model.weight_bytes());
    }
}

const SMALL: &str = r#"{"architecture": "llama", "layers": 2, "hidden": 64, "heads": 4,
    "feed_forward": 96, "vocab": 300"#;

#[test]
fn shape_files_are_held_to_their_fields_and_bounds() {
    let with = |rest: &str| parse(&format!("{SMALL}{rest}}}"));
    let model = with("").expect("valid");
    let layer = &model.spec.layers[0];
    assert_eq!((layer.kv_heads, layer.head_dim, model.spec.tied_head), (4, 16, false));
    assert_eq!((model.spec.context_len, model.spec.name.as_str()), (8192, "small"));
    let refuse = |text: &str, part: &str| {
        let error = parse(text).err().unwrap_or_default();
        assert!(error.contains(part), "{text}: {error}");
    };
    let refuse_with = |rest: &str, part: &str| refuse(&format!("{SMALL}{rest}}}"), part);
    refuse_with(r#", "kv_head": 2"#, "unknown field `kv_head`, expected one of `architecture`");
    refuse_with(r#", "kv_heads": 3"#, "divisor of the 4 query heads");
    refuse_with(r#", "context": 0"#, "context length is 0");
    refuse_with(r#", "norm_eps": "x""#, "expected f64");
    refuse_with(r#", "rope_scaling": {"yarn": 4}"#, "unknown variant `yarn`");
    refuse_with(r#", "rope_scaling": {"linear": -1}"#, "rotary scaling factor is -1");
    refuse(&format!("{}}}", SMALL.replace("300", "259")), "vocabulary size is 259, expected 260");
    refuse(&format!("{}}}", SMALL.replace("llama", "mamba")), "`mamba` is not supported");
    refuse(&format!("{}}}", SMALL.replace("64", "1e3")), "expected usize");
    refuse(&format!("{}}}", SMALL.replace("64", "2097152")), "hidden size is 2097152");
    refuse("[]", "small.json: invalid");
    refuse("{", "expected valid JSON");
    refuse(r#"{"model_type": "llama"}"#, "key `num_attention_heads` is missing");
    let error = shape("llama-4").expect_err("unknown").to_string();
    assert!(error.contains("known: llama-3-8b, llama-3-70b"), "{error}");
}

/// config.json files, as transformers writes them, are shapes too.
#[test]
fn hugging_face_configs_are_shapes() {
    let config = r#"{"model_type": "gemma3_text", "hidden_size": 64, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 96,
        "vocab_size": 300, "sliding_window": 8, "query_pre_attn_scalar": 32, "torch_dtype": "float32",
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}"#;
    let model = parse(config).expect("valid");
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("m.gguf");
    write(&model, &path, false);
    let files = ModelFiles::open(path.to_str().expect("text")).expect("opens");
    let windows: Vec<_> = files.spec().layers.iter().map(|layer| layer.window).collect();
    assert_eq!(windows, [Some(8), None, Some(8)]);
    assert_eq!(files.spec().architecture, "gemma3");
}
