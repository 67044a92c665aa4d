//! Small random models of every architecture, as GGUF and as a Hugging Face folder, against logits of
//! an independent implementation (`scripts/make_tiny_models.py`).

use crate::support::{Kind, complete, engine, executor, fixture, greedy, open};
use forebay::generate::{Engine, EngineConfig, Request};
use forebay::kernel::KvFormat;
use forebay::kernel::PAGE_LEN;
use forebay::sample::SamplingParams;
use forebay::schedule::{Batch, Span};
use forebay::tokenizer::{Tokenizer, TokenizerSource};
use serde::Deserialize;
use std::fs;
use std::path::PathBuf;

const NAMES: [&str; 4] = ["llama", "qwen2", "qwen3", "gemma3"];

#[derive(Deserialize)]
struct Expected {
    tokens: Vec<u32>,
    /// `[position][vocab]`.
    logits: Vec<Vec<f32>>,
}

fn folder(name: &str) -> PathBuf {
    fixture(&format!("fixtures/tiny/{name}"))
}

fn expected(name: &str) -> Expected {
    serde_json::from_str(&fs::read_to_string(folder(name).join("expected.json")).unwrap()).unwrap()
}

/// Logits of every position of `tokens`, all in one pass.
fn logits(path: &std::path::Path, kind: Kind, tokens: &[u32]) -> Option<Vec<f32>> {
    let model = open(path);
    let mut executor = executor(&model, kind, tokens.len(), 64, KvFormat::F16)?;
    let pages: Vec<u32> = (0..tokens.len().div_ceil(PAGE_LEN) as u32).collect();
    let mut batch = Batch::default();
    batch.push(Span { tokens, start: 0, pages: &pages, logits: tokens.len(), moves: &[] });
    let mut all = Vec::new();
    executor.pass(&batch, &mut |_, logits| all.extend_from_slice(logits)).unwrap();
    Some(all)
}

fn check(kind: Kind, error_max: f64) {
    for name in NAMES {
        let expected = expected(name);
        let wanted: Vec<f32> = expected.logits.concat();
        for path in [folder(name), folder(name).join("model.gguf")] {
            let Some(found) = logits(&path, kind, &expected.tokens) else { return };
            assert_eq!(found.len(), wanted.len());
            let square = |x: f32| f64::from(x) * f64::from(x);
            let off: f64 = wanted.iter().zip(&found).map(|(a, b)| square(a - b)).sum();
            let norm: f64 = wanted.iter().map(|&a| square(a)).sum();
            let error = (off / norm).sqrt();
            eprintln!("| {name} | {kind:?} | {} | {error:.2e} |", path.is_dir());
            assert!(error < error_max, "{name} on {kind:?}: relative error {error:.2e}");
        }
    }
}

#[test]
fn reference_logits_match() {
    check(Kind::Reference, 1e-3);
}

#[test]
fn cpu_logits_match() {
    check(Kind::Cpu, 1e-3);
}

#[test]
fn gpu_logits_match() {
    check(Kind::Gpu, 1e-2);
}

/// The same weights give the same tokens, whichever way they are stored.
#[test]
fn folder_and_gguf_agree() {
    for kind in [Kind::Cpu, Kind::Gpu] {
        for name in NAMES {
            let prompt = expected(name).tokens;
            let tokens = |path: PathBuf| {
                let model = open(&path);
                let config =
                    EngineConfig { batch: 2, prefill_chunk: 16, context_len: 64, tree_budget: 0 };
                let mut engine = engine(&model, kind, config, 128, KvFormat::F16)?;
                let requests = vec![greedy(0, &prompt, 20), greedy(1, &prompt[..5], 20)];
                let done = complete(&mut engine, requests);
                Some(done.into_iter().map(|c| c.tokens).collect::<Vec<_>>())
            };
            let Some(from_folder) = tokens(folder(name)) else { return };
            assert_eq!(Some(from_folder), tokens(folder(name).join("model.gguf")), "{name}");
        }
    }
}

/// A model may have more logits than its tokenizer has tokens: those beyond stand for nothing and never come.
#[test]
fn padding_of_a_vocabulary_is_not_sampled() {
    const KNOWN: u64 = 280;
    let text = fs::read_to_string(folder("llama").join("tokenizer.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["model"]["vocab"].as_object_mut().unwrap().retain(|_, id| id.as_u64() < Some(KNOWN - 2));
    let kept: std::collections::HashSet<String> =
        json["model"]["vocab"].as_object().unwrap().keys().cloned().collect();
    let merges = json["model"]["merges"].as_array_mut().unwrap();
    merges.retain(|merge| kept.contains(&merge.as_str().unwrap().replacen(' ', "", 1)));
    for (at, token) in json["added_tokens"].as_array_mut().unwrap().iter_mut().enumerate() {
        token["id"] = (KNOWN - 2 + at as u64).into();
    }
    let tokenizer = Tokenizer::new(&TokenizerSource::HuggingFace {
        tokenizer_json: json.to_string().into_bytes(),
        config: None,
        eos_ids: vec![KNOWN as u32 - 1],
        chat_template: None,
    });
    let tokenizer = tokenizer.unwrap();
    assert_eq!(tokenizer.vocab_len() as u64, KNOWN);
    let model = open(&folder("llama"));
    let config = EngineConfig { batch: 4, prefill_chunk: 16, context_len: 96, tree_budget: 0 };
    let highest = |tokenizer: &Tokenizer| {
        let executor = executor(&model, Kind::Cpu, config.rows(), 512, KvFormat::F16).unwrap();
        let mut engine = Engine::new(executor, tokenizer, config);
        let request = |id| {
            let sampling = SamplingParams { temperature: 2.0, seed: id, ..Default::default() };
            Request { sampling, ignore_eos: true, ..greedy(id, &[1, 2, 3], 64) }
        };
        let done = complete(&mut engine, (0..4).map(request).collect());
        u64::from(done.iter().flat_map(|done| done.tokens.iter().copied()).max().unwrap())
    };
    assert!(highest(&model.tokenizer) >= KNOWN, "the model likes its last tokens too");
    assert!(highest(&tokenizer) < KNOWN);
}
