//! Tests: models that must be refused, and how they are named.

use super::ModelFiles;
use super::gguf::{GgufWriter, TensorPlan, Value};
use crate::quant::DType;
use proptest::prelude::*;
use std::fs;
use std::path::Path;

type Metadata = Vec<(String, Value)>;

/// Keys of a one-layer llama, 32 wide, with 2 heads.
fn metadata() -> Metadata {
    let sizes = [
        ("embedding_length", 32),
        ("context_length", 64),
        ("block_count", 1),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
        ("feed_forward_length", 64),
    ];
    let mut keys = vec![("general.architecture".to_string(), Value::text("llama"))];
    keys.extend(sizes.map(|(key, size)| (format!("llama.{key}"), Value::u32(size))));
    keys.push(("llama.attention.layer_norm_rms_epsilon".into(), Value::f32(1e-5)));
    keys
}

fn tensors() -> Vec<TensorPlan> {
    let matrix = |name: &str, rows, cols| {
        TensorPlan::matrix(format!("blk.0.{name}.weight"), DType::Q8_0, rows, cols)
    };
    vec![
        TensorPlan::matrix("token_embd.weight", DType::Q8_0, 10, 32),
        TensorPlan::vector("blk.0.attn_norm.weight", 32),
        matrix("attn_q", 32, 32),
        matrix("attn_k", 16, 32),
        matrix("attn_v", 16, 32),
        matrix("attn_output", 32, 32),
        TensorPlan::vector("blk.0.ffn_norm.weight", 32),
        matrix("ffn_gate", 64, 32),
        matrix("ffn_up", 64, 32),
        matrix("ffn_down", 32, 64),
        TensorPlan::vector("output_norm.weight", 32),
    ]
}

fn bytes(metadata: &Metadata, tensors: Vec<TensorPlan>) -> Vec<u8> {
    let mut writer = GgufWriter::new(Vec::new(), metadata, tensors.clone()).expect("memory");
    for tensor in &tensors {
        writer.write(&vec![0; tensor.bytes() as usize]).expect("fits");
    }
    writer.finish().expect("complete")
}

fn open(path: &Path) -> Result<ModelFiles, String> {
    ModelFiles::open(&path.display().to_string()).map_err(|e| e.to_string())
}

fn open_bytes(bytes: &[u8]) -> Result<ModelFiles, String> {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("m.gguf");
    fs::write(&path, bytes).expect("written");
    open(&path)
}

fn set(mut metadata: Metadata, key: &str, value: Value) -> Metadata {
    metadata.retain(|(k, _)| k != key);
    metadata.push((key.to_string(), value));
    metadata
}

#[track_caller]
fn refused(result: Result<ModelFiles, String>, part: &str) {
    match result {
        Ok(_) => panic!("accepted; expected `{part}`"),
        Err(error) => assert!(error.contains(part) && error.len() < 1000, "{error}"),
    }
}

#[test]
fn keys_are_checked() {
    let files = open_bytes(&bytes(&metadata(), tensors())).expect("the valid model");
    assert_eq!((files.spec().vocab, files.spec().layers[0].head_dim), (10, 16));
    let with = |key: &str, value| open_bytes(&bytes(&set(metadata(), key, value), tensors()));
    refused(with("general.architecture", Value::text("rwkv7")), "`rwkv7` is not supported");
    refused(with("general.architecture", Value::u32(1)), "expected a text, found 1");
    refused(with("llama.block_count", Value::u32(0)), "number of layers is 0");
    refused(with("llama.block_count", Value::u32(2)), "tensor `blk.1.attn_norm.weight` is missing");
    refused(with("llama.attention.head_count", Value::u32(0)), "number of heads is 0");
    refused(with("llama.attention.head_count", Value::text("x")), "non-negative integers, found x");
    refused(with("llama.embedding_length", Value::u32(1 << 30)), "hidden size is 1073741824");
    refused(with("llama.attention.value_length", Value::u32(8)), "key head width is 16");
    refused(with("llama.rope.dimension_count", Value::u32(17)), "rotated elements is 17");
    refused(with("llama.rope.scaling.type", Value::text("yarn")), "`yarn`");
    refused(with("llama.expert_count", Value::u32(8)), "`llama.expert_count`");
    refused(with("llama.attention.causal", Value::bool(false)), "`llama.attention.causal`");
    assert!(with("llama.attention.causal", Value::bool(true)).is_ok());
    let tokens = Value::Texts(vec!["a".into(); 11]);
    refused(with("tokenizer.ggml.tokens", tokens), "at most 10 tokens");
    let mut without = metadata();
    without.retain(|(key, _)| key != "llama.feed_forward_length");
    refused(open_bytes(&bytes(&without, tensors())), "`llama.feed_forward_length` is missing");
}

#[test]
fn tensors_are_checked() {
    let with = |change: fn(&mut Vec<TensorPlan>)| {
        let mut plans = tensors();
        change(&mut plans);
        open_bytes(&bytes(&metadata(), plans))
    };
    refused(with(|t| t.truncate(10)), "`output_norm.weight` is missing");
    refused(with(|t| t[2].dims = vec![32, 33]), "`blk.0.attn_q.weight` is 33 x 32");
    refused(with(|t| t[2].dims = vec![32, 33]), "the header makes it 32 x 32");
    refused(
        with(|t| t.push(TensorPlan::vector("blk.0.attn_output.bias", 32))),
        "`blk.0.attn_output.bias` is not used",
    );
    // The type id of the embedding follows its name and its two sizes.
    let mut file = bytes(&metadata(), tensors());
    let name = b"token_embd.weight";
    let at = file.windows(name.len()).position(|w| w == name).expect("named") + name.len() + 20;
    file[at] = 23;
    refused(open_bytes(&file), "`token_embd.weight` has type IQ4_XS (number 23)");
}

/// A llama with biases of q, k and v has them in its description.
#[test]
fn biases_are_found() {
    let mut plans = tensors();
    for (name, len) in [("q", 32), ("k", 16), ("v", 16)] {
        plans.push(TensorPlan::vector(format!("blk.0.attn_{name}.bias"), len));
    }
    let files = open_bytes(&bytes(&metadata(), plans)).expect("valid");
    assert!(files.spec().layers[0].qkv_bias);
}

/// Other factors of rotation make another model, wherever they lie in the file.
#[test]
fn rotary_factors_are_part_of_the_fingerprint() {
    let fingerprint = |factor: f32| {
        let mut plans = tensors();
        // So long that the factors behind it are on none of the pages that are sampled.
        plans[0].dims = vec![32, 30_000];
        plans.insert(1, TensorPlan::vector("rope_freqs.weight", 8));
        let mut writer = GgufWriter::new(Vec::new(), &metadata(), plans.clone()).expect("memory");
        for plan in &plans {
            let value = if plan.name == "rope_freqs.weight" { factor } else { 0.0 };
            let words = value.to_le_bytes().into_iter().cycle();
            writer.write(&words.take(plan.bytes() as usize).collect::<Vec<u8>>()).expect("fits");
        }
        let file = writer.finish().expect("complete");
        open_bytes(&file).expect("valid").fingerprint()
    };
    assert_eq!(fingerprint(1.0), fingerprint(1.0));
    assert_ne!(fingerprint(1.0), fingerprint(2.0));
}

#[test]
fn parts_are_found_and_missed() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let part = |no: usize| folder.path().join(format!("m-{no:05}-of-00002.gguf"));
    let split = |no: u32| {
        let keys = if no == 0 { metadata() } else { Vec::new() };
        let keys = set(keys, "split.no", Value::u32(no));
        let keys = set(keys, "split.tensors.count", Value::u32(11));
        set(keys, "split.count", Value::u32(2))
    };
    let mut first = tensors();
    let second = first.split_off(6);
    fs::write(part(1), bytes(&split(0), first.clone())).expect("written");
    refused(open(&part(1)), "missing: m-00002-of-00002.gguf");
    fs::write(part(2), bytes(&split(1), second)).expect("written");
    for reference in [part(1), part(2), folder.path().to_path_buf()] {
        let files = open(&reference).expect("both parts");
        assert_eq!((files.tensors().len(), files.path()), (11, part(1).as_path()));
    }
    fs::write(part(2), bytes(&split(1), first)).expect("written");
    refused(open(&part(1)), "every name once");
    fs::write(part(2), bytes(&split(0), Vec::new())).expect("written");
    refused(open(&part(1)), "key `split.no`: expected 1, by the file name, found 0");
}

#[test]
fn folders_without_a_model_say_so() {
    let folder = tempfile::tempdir().expect("temporary folder");
    refused(open(folder.path()), "has neither config.json");
    for name in ["a.gguf", "b.gguf"] {
        fs::write(folder.path().join(name), "").expect("written");
    }
    refused(open(folder.path()), "name one: a.gguf, b.gguf");
    refused(open(&folder.path().join("a.gguf")), "magic number");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Flipped bytes anywhere in a whole model: opened or refused, and what is opened can be read.
    #[test]
    fn damaged_models_never_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut file = bytes(&metadata(), tensors());
        // Most of the file is data; damage belongs in the header.
        let header = file.len() - tensors().iter().map(|t| t.bytes() as usize).sum::<usize>();
        for (index, byte) in flips {
            let at = index.index(header);
            file[at] = byte;
        }
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("m.gguf");
        fs::write(&path, file).expect("written");
        if let Ok(files) = open(&path) {
            for id in files.spec().tensors() {
                let info = files.tensor(id).expect("present");
                let mut out = Vec::new();
                prop_assert!(files.read(id, 0..info.rows, &mut out).is_ok());
                prop_assert_eq!(out.len() as u64, info.bytes());
            }
            let _ = files.tokenizer_source();
        }
    }
}
