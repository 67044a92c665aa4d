//! Attention on the host: no placement changes a token, and it computes what the device computes.

use crate::cli;
use crate::placement::{WEIGHTS, Way, ids};
use crate::support::{Kind, Model, adapter, device, fixture, model_path, open, real};
use forebay::exec::{ExecError, Executor, ExecutorConfig};
use forebay::kernel::{KvFormat, PAGE_LEN};
use forebay::schedule::{Batch, Span};
use forebay::tokenizer::Special;
use forebay_planner::Tier;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::sync::Arc;

const HOST: Way = Way { host: true, resident: 100, micro_rows: 512, work: [5, 5], ..WEIGHTS };

const WAYS: [Way; 3] = [
    HOST,
    Way { passes: [1, 16], micro_rows: 1, resident: 50, in_ram: 50, ..HOST },
    Way {
        passes: [8, 512],
        micro_rows: 4,
        resident: 50,
        spare: 9 << 20,
        activations: Tier::Ram,
        ..HOST
    },
];

fn check(name: &str, format: KvFormat, ways: &[Way]) {
    let Some(model) = real(name) else { return };
    let ids = |way: Way| ids(&model, Kind::Gpu, Some(Way { kv_format: format, ..way }), format);
    let Some(expected) = ids(ways[0]) else { return };
    assert!(expected.iter().any(|tokens| tokens.len() == ways[0].work[1]));
    for &way in &ways[1..] {
        assert_eq!(ids(way).unwrap(), expected, "{name}, {format}: {way:?}");
    }
}

#[test]
fn ids_do_not_depend_on_placement() {
    check("smollm2-135m", KvFormat::F16, &WAYS);
    check("smollm2-135m", KvFormat::K8V4, &[WAYS[0], WAYS[2]]);
    check("smollm2-135m", KvFormat::Q4, &[WAYS[0], WAYS[2]]);
}

/// A model whose keys have biases, which compressed caches keep apart.
#[test]
fn ids_do_not_depend_on_placement_where_keys_have_biases() {
    let whole = Way { work: [2, 3], ..HOST };
    let cut = Way { micro_rows: 2, resident: 50, in_ram: 50, ..whole };
    check("qwen2.5-coder-0.5b", KvFormat::Q4, &[whole, cut]);
}

/// Logits of all positions of `tokens` in one pass of several micro-batches.
fn logits(model: &Model, kind: Kind, tokens: &[u32], config: ExecutorConfig) -> Option<Vec<f32>> {
    let files = Arc::clone(&model.files);
    let mut executor = Executor::new(device(kind)?, files, config, &mut |_, _| {}).unwrap();
    let pages: Vec<u32> = (0..tokens.len().div_ceil(PAGE_LEN) as u32).rev().collect();
    let mut batch = Batch::default();
    batch.push(Span { tokens, start: 0, pages: &pages, logits: tokens.len(), moves: &[] });
    let mut all = Vec::new();
    executor.pass(&batch, &mut |_, logits| all.extend_from_slice(logits)).unwrap();
    Some(all)
}

/// Root mean square difference of log-probabilities, in parts of the logits' spread.
fn apart(model: &Model, kind: Kind, tokens: &[u32], kv_format: KvFormat) -> Option<f64> {
    let resident = ExecutorConfig::resident(tokens.len(), tokens.len().div_ceil(PAGE_LEN));
    let on_device = ExecutorConfig { micro_rows: 7, kv_format, ..resident };
    let on_host = ExecutorConfig { host_attention: true, ..on_device.clone() };
    let a = logits(model, kind, tokens, on_device)?;
    let b = logits(model, kind, tokens, on_host)?;
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let difference = square(&mut a.iter().zip(&b).map(|(a, b)| f64::from(a - b)));
    Some((difference / square(&mut a.iter().map(|&a| f64::from(a)))).sqrt())
}

/// Every architecture in every format: norms of heads, windows, biases of keys, rotation.
#[test]
fn the_host_attends_as_the_device_does() {
    for name in ["llama", "qwen2", "qwen3", "gemma3"] {
        let path = fixture(&format!("fixtures/tiny/{name}"));
        let model = open(&path);
        let tokens: Vec<u32> = (1..40).map(|i| i * 7 % 50).collect();
        // A code that is rounded the other way changes much in a model this small.
        for (format, most) in KvFormat::ALL.into_iter().zip([1e-3, 0.06, 0.06]) {
            let reference = apart(&model, Kind::Reference, &tokens, format).unwrap();
            assert!(reference < most, "{name}, {format}: {reference}");
            let Some(gpu) = apart(&model, Kind::Gpu, &tokens, format) else { continue };
            assert!(gpu < most, "{name}, {format}: {gpu}");
        }
    }
    let Some(model) = real("smollm2-135m") else { return };
    let tokens = model.tokenizer.encode("The capital of France is", Special::Parse).unwrap();
    let Some(gpu) = apart(&model, Kind::Gpu, &tokens, KvFormat::F16) else { return };
    assert!(gpu < 5e-3, "{gpu}");
}

#[test]
fn a_cache_that_is_not_in_ram_is_refused() {
    let model = open(&fixture("fixtures/tiny/llama"));
    let layers = model.files.spec().layers.len();
    let config = ExecutorConfig {
        host_attention: true,
        cache_homes: vec![Tier::Disk; layers],
        ..ExecutorConfig::resident(8, 4)
    };
    let device = device(Kind::Reference).unwrap();
    let made = Executor::new(device, Arc::clone(&model.files), config, &mut |_, _| {});
    assert!(matches!(made.err(), Some(ExecError::CacheNotInRam)));
}

/// Ends with `code`; what was said, and the summary.
fn run(folder: &Path, adapter: &str, flags: &[&str], code: i32) -> (String, Value) {
    let (output, summary) = (folder.join("out.jsonl"), folder.join("summary.json"));
    let model = cli::model().unwrap();
    let mut command = cli::run_on(adapter, &model, &folder.join("in.jsonl"), &output);
    command.args(["--max-tokens", "4"]).args(flags).arg("--summary").arg(&summary);
    let done = command.arg("--disk-dir").arg(folder.join("disk")).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(code), "{flags:?}: {said}");
    let summary = fs::read(&summary).map_or(Value::Null, |b| serde_json::from_slice(&b).unwrap());
    (said, summary)
}

/// The choice belongs to the job; RAM is kept within its budget; what cannot be is refused.
#[test]
fn a_job_says_what_attends() {
    let (Some(adapter), Some(_)) = (adapter(), model_path("smollm2-135m")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let line = |i: usize| format!("{{\"prompt\": \"Story number {i}:\", \"temperature\": 0}}\n");
    let input = folder.path().join("in.jsonl");
    fs::write(&input, (0..4).map(line).collect::<String>()).unwrap();
    let run = |flags: &[&str], code: i32| run(folder.path(), &adapter.name, flags, code);

    let mut answers = Vec::new();
    for (mib, more) in [(900, "--batch=4"), (300, "--weights=gpu=50%")] {
        let ram = format!("--ram={mib}MiB");
        let (said, summary) = run(&["--overwrite", "--attention", "host", &ram, more], 0);
        assert!(said.contains("attention on the host"), "{said}");
        assert!(!said.contains("planning again"), "{said}");
        assert_eq!(summary["settings"]["attention"], "host");
        assert_eq!(summary["placement"]["achieved"]["kv"]["gpu"], 0);
        let peak = summary["peak_bytes"]["ram"].as_u64().unwrap();
        assert!(peak <= mib << 20, "{mib} MiB: {peak} bytes were resident");
        answers.push(cli::results(&folder.path().join("out.jsonl")));
    }
    assert_eq!(answers[0], answers[1]);
    // A job goes on as it was begun: `auto` keeps what it finds, `device` is another job.
    run(&["--attention", "auto"], 0);
    let (said, _) = run(&["--attention", "device"], 6);
    assert!(said.contains("give --attention as it was"), "{said}");
    let (said, _) = run(&["--overwrite", "--attention", "auto"], 0);
    assert!(said.contains("--attention auto takes device"), "{said}");
    let (said, _) = run(&["--overwrite", "--attention", "host", "--kv", "disk=100%"], 2);
    assert!(said.contains("the host attends over RAM alone"), "{said}");
}
