//! Promise 3: token ids depend on model, prompt, sampling parameters and seed, on nothing else.

use crate::support::{Kind, Model, complete, engine, greedy, real};
use forebay::backend::cpu::{CpuDevice, SimdPath};
use forebay::exec::{Executor, ExecutorConfig};
use forebay::generate::{EngineConfig, Request};
use forebay::kernel::KvFormat;
use forebay::sample::SamplingParams;
use forebay::schedule::{Batch, Span};
use forebay::tokenizer::Special;
use std::sync::Arc;

const TEXTS: [&str; 10] = [
    "The capital of France is",
    "def quicksort(items):\n",
    "Once upon a time, in a land far away, there lived a miller who had three sons and a cat. \
     The eldest son inherited the mill, the second the donkey, and the youngest",
    "1, 1, 2, 3, 5, 8,",
    "Dear diary, today",
    "The three states of matter are",
    "SELECT name FROM users WHERE",
    "Q: What is the boiling point of water?\nA:",
    "Roses are red,",
    "Once upon a time, in a land far away, there lived a miller who had three sons and a dog.",
];

fn requests(model: &Model, temperature: f32, shuffled: bool) -> Vec<Request> {
    let request = |(id, text): (usize, &&str)| {
        let prompt = model.tokenizer.encode(text, Special::Parse).unwrap();
        let sampling =
            SamplingParams { temperature, seed: id as u64 + 40, ..SamplingParams::default() };
        Request { sampling, ..greedy(id as u64, &prompt, 24) }
    };
    let mut requests: Vec<Request> = TEXTS.iter().enumerate().map(request).collect();
    if shuffled {
        requests.reverse();
        requests.swap(1, 6);
    }
    requests
}

/// The ids of all requests under one way of running them.
fn ids(
    model: &Model,
    kind: Kind,
    (batch, prefill_chunk, positions): (usize, usize, usize),
    shuffled: bool,
    format: KvFormat,
) -> Option<Vec<Vec<u32>>> {
    let config = EngineConfig { batch, prefill_chunk, context_len: 128, tree_budget: 0 };
    let mut engine = engine(model, kind, config, positions, format)?;
    let mut all = Vec::new();
    for temperature in [0.0, 0.8] {
        let completions = complete(&mut engine, requests(model, temperature, shuffled));
        all.extend(completions.into_iter().map(|completion| completion.tokens));
    }
    if positions < 300 {
        assert!(engine.stats().preemptions > 0, "the small cache was meant to preempt");
    }
    Some(all)
}

fn check(name: &str, kind: Kind, ways: &[((usize, usize, usize), bool)]) {
    check_format(name, kind, ways, KvFormat::F16);
}

fn check_format(name: &str, kind: Kind, ways: &[((usize, usize, usize), bool)], format: KvFormat) {
    let Some(model) = real(name) else { return };
    let Some(expected) = ids(&model, kind, (32, 512, 4096), false, format) else { return };
    assert!(expected.iter().any(|tokens| tokens.len() == 24));
    for &(way, shuffled) in ways {
        let found = ids(&model, kind, way, shuffled, format).unwrap();
        assert_eq!(
            found, expected,
            "{name} on {kind:?}, {format}: (batch, chunk, positions) {way:?}"
        );
    }
}

/// All instruction sets of this processor give the same logits, bit by bit: what golden tables, perplexities
/// and the tests here show of the best one holds of every one.
#[test]
fn every_path_computes_the_same_bits() {
    let paths: Vec<SimdPath> =
        SimdPath::ALL.into_iter().filter(|path| path.is_available()).collect();
    for path in SimdPath::ALL.iter().filter(|path| !paths.contains(path)) {
        eprintln!("skipped: this processor has no {path}");
    }
    for (name, format) in [("smollm2-135m", KvFormat::F16), ("gemma3-270m", KvFormat::Q4)] {
        let Some(model) = real(name) else { continue };
        let prompts: Vec<Vec<u32>> = [TEXTS[0], TEXTS[1], TEXTS[3]]
            .map(|text| model.tokenizer.encode(text, Special::Parse).unwrap())
            .into();
        let all: Vec<Vec<u32>> =
            paths.iter().map(|&path| bits(&model, path, format, &prompts)).collect();
        for (path, found) in paths.iter().zip(&all) {
            assert!(found == &all[0], "{name}, {format}: {path} and {} differ", paths[0]);
        }
    }
}

/// The bits of the logits after prompts that are read in one pass, and after one more token each.
fn bits(model: &Model, path: SimdPath, kv_format: KvFormat, prompts: &[Vec<u32>]) -> Vec<u32> {
    let config = ExecutorConfig { kv_format, ..ExecutorConfig::resident(64, 12) };
    let device = Box::new(CpuDevice::with_path(None, path).unwrap());
    let mut executor =
        Executor::new(device, Arc::clone(&model.files), config, &mut |_, _| {}).unwrap();
    let pages: Vec<Vec<u32>> =
        (0..prompts.len() as u32).map(|at| (4 * at..4 * at + 4).collect()).collect();
    let mut found = Vec::new();
    for decodes in [false, true] {
        let mut batch = Batch::default();
        for (prompt, pages) in prompts.iter().zip(&pages) {
            let (tokens, start) = match decodes {
                false => (&prompt[..], 0),
                true => (&prompt[..1], prompt.len()),
            };
            batch.push(Span { tokens, start, pages, logits: 1, moves: &[] });
        }
        let mut each =
            |_: usize, logits: &[f32]| found.extend(logits.iter().map(|logit| logit.to_bits()));
        executor.pass(&batch, &mut each).unwrap();
    }
    found
}

/// (batch, prefill chunk, cache positions), input order shuffled. The last cache is too small for the
/// batch: sequences are preempted and recomputed.
const WAYS: [((usize, usize, usize), bool); 6] = [
    ((1, 512, 4096), false),
    ((3, 64, 4096), true),
    ((32, 16, 4096), false),
    ((3, 16, 4096), false),
    ((32, 64, 4096), true),
    ((32, 64, 256), true),
];

#[test]
fn cpu_ids_do_not_depend_on_batching() {
    check("smollm2-135m", Kind::Cpu, &WAYS);
    check("gemma3-270m", Kind::Cpu, &WAYS[1..3]);
    check("qwen2.5-coder-0.5b", Kind::Cpu, &WAYS[1..3]);
}

#[test]
fn compressed_caches_do_not_make_ids_depend_on_batching() {
    check_format("smollm2-135m", Kind::Cpu, &[WAYS[0], WAYS[1], WAYS[5]], KvFormat::Q4);
    check_format("smollm2-135m", Kind::Cpu, &WAYS[1..2], KvFormat::K8V4);
    check_format("qwen2.5-coder-0.5b", Kind::Cpu, &WAYS[1..2], KvFormat::Q4);
    check_format("smollm2-135m", Kind::Gpu, &WAYS[1..2], KvFormat::Q4);
}

#[test]
fn gpu_ids_do_not_depend_on_batching() {
    check("smollm2-135m", Kind::Gpu, &[WAYS[1], WAYS[2], WAYS[5]]);
}
