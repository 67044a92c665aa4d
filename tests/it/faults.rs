//! Disks that fail: a job recovers, or ends with an error; no wrong token is ever handed out.

use crate::support::{Kind, Model, device, greedy, real};
use forebay::exec::{Executor, ExecutorConfig, Resources};
use forebay::generate::{Engine, EngineConfig, EngineError};
use forebay::kernel::PAGE_LEN;
use forebay::schedule::{Homes, Matrices, StreamPlan};
use forebay::store::faults::{ALWAYS, Fault, FaultKind, Faults};
use forebay::store::{CacheOptions, FileWeights, IoControl, PackedCache, WeightSource};
use forebay::tokenizer::Special;
use forebay_planner::Tier;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const TEXTS: [&str; 3] =
    ["The capital of France is", "def quicksort(items):\n", "1, 1, 2, 3, 5, 8,"];

/// Everything on disk: weights in the smallest rings, the cache of every other layer.
fn config(model: &Model, shares_ram: bool, rows: usize) -> ExecutorConfig {
    let spec = model.files.spec();
    let matrices = Matrices::new(spec, |id| model.files.packing(id)).unwrap();
    let homes = Homes::from_list(&matrices, std::iter::repeat(Tier::Disk));
    let rings = StreamPlan::rings_min(spec, &matrices, &homes, shares_ram);
    let caches = [Tier::Disk, Tier::Device].into_iter().cycle();
    ExecutorConfig {
        micro_rows: 5,
        homes,
        rings,
        readers: 2,
        cache_homes: caches.take(spec.layers.len()).collect(),
        window_pages: 4,
        ..ExecutorConfig::resident(rows, 512 / PAGE_LEN)
    }
}

/// What came out before the end, by request, and the error if there was one.
type Ran = (BTreeMap<u64, Vec<u32>>, Option<EngineError>);

fn run(model: &Model, kind: Kind, resources: Option<Resources>) -> Option<Ran> {
    let engine_config =
        EngineConfig { batch: 3, prefill_chunk: 9, context_len: 64, tree_budget: 0 };
    let rows = engine_config.rows();
    let (config, resources) = match resources {
        Some(resources) => (config(model, kind == Kind::Cpu, rows), resources),
        None => (ExecutorConfig::resident(rows, 512 / PAGE_LEN), Resources::default()),
    };
    let (device, files) = (device(kind)?, Arc::clone(&model.files));
    let executor = Executor::with(device, files, config, resources, &mut |_, _| {}).unwrap();
    let mut engine = Engine::new(executor, &model.tokenizer, engine_config);
    for (id, text) in TEXTS.iter().enumerate() {
        let prompt = model.tokenizer.encode(text, Special::Parse).unwrap();
        // Of different lengths, so that some are done when a late fault strikes.
        engine.submit(greedy(id as u64, &prompt, 3 + 4 * id)).unwrap();
    }
    let mut done = BTreeMap::new();
    while !engine.is_idle() {
        match engine.step() {
            Ok(completions) => done.extend(completions.into_iter().map(|c| (c.id, c.tokens))),
            Err(error) => return Some((done, Some(error))),
        }
    }
    Some((done, None))
}

fn failing(kind: FaultKind, first: u64, count: u64) -> IoControl {
    IoControl {
        faults: Some(Faults::new(vec![Fault { kind, first, count }])),
        ..IoControl::default()
    }
}

fn packed(model: &Model, folder: &Path, reading: IoControl) -> Arc<dyn WeightSource> {
    let options = CacheOptions {
        bytes_max: u64::MAX,
        threads: 2,
        reading: IoControl::default(),
        building: IoControl::default(),
    };
    let files = || Arc::clone(&model.files);
    PackedCache::open_or_build(files(), folder, &options, &mut |_, _| {}).unwrap();
    Arc::new(PackedCache::open(files(), folder, reading).unwrap())
}

/// Transfers after those that opening takes, in the first pass and in a later one.
const EARLY: u64 = 40;
const LATE: u64 = 900;

#[test]
fn weights_on_a_failing_disk() {
    let Some(model) = real("smollm2-135m") else { return };
    let (expected, _) = run(&model, Kind::Cpu, None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let spill_folder = folder.path().to_path_buf();
    let slow = FaultKind::Slow(Duration::from_millis(30));
    for (kind, first, count, recovers) in [
        (FaultKind::Short, EARLY, ALWAYS, true),
        (FaultKind::Error, EARLY, 1, true),
        (slow, EARLY, 20, true),
        // The packed file is wrong: what the model's own file says is taken.
        (FaultKind::Flip(12345), EARLY, 1, true),
        (FaultKind::Flip(77), EARLY, ALWAYS, true),
        (FaultKind::Error, EARLY, ALWAYS, false),
        (FaultKind::Error, LATE, ALWAYS, false),
    ] {
        let weights = Some(packed(&model, folder.path(), failing(kind, first, count)));
        let spill_folder = spill_folder.clone();
        let resources = Resources { weights, spill_folder, poison: true, ..Resources::default() };
        let ran = run(&model, Kind::Cpu, Some(resources)).unwrap();
        judge(ran, &expected, recovers, &format!("{kind:?} from {first}, {count} times"));
    }
}

/// The same without a packed file, where bytes are packed on every read.
#[test]
fn the_models_own_file_on_a_failing_disk() {
    let Some(model) = real("smollm2-135m") else { return };
    let (expected, _) = run(&model, Kind::Cpu, None).unwrap();
    for (kind, count, recovers) in [
        (FaultKind::Short, ALWAYS, true),
        (FaultKind::Error, 1, true),
        (FaultKind::Error, ALWAYS, false),
    ] {
        let source = FileWeights::new(Arc::clone(&model.files), failing(kind, LATE, count));
        let folder = tempfile::tempdir().unwrap();
        let resources = Resources {
            weights: Some(Arc::new(source.unwrap())),
            spill_folder: folder.path().into(),
            ..Resources::default()
        };
        let ran = run(&model, Kind::Cpu, Some(resources)).unwrap();
        judge(ran, &expected, recovers, &format!("{kind:?}, {count} times"));
    }
}

#[test]
fn cache_pages_on_a_failing_disk() {
    let Some(model) = real("smollm2-135m") else { return };
    let (expected, _) = run(&model, Kind::Cpu, None).unwrap();
    let slow = FaultKind::Slow(Duration::from_millis(30));
    for (kind, first, count, recovers) in [
        (FaultKind::Short, 0, ALWAYS, true),
        (FaultKind::Error, 60, 1, true),
        (slow, 60, 20, true),
        (FaultKind::Flip(100), 60, 1, true),
        (FaultKind::Flip(100), 60, ALWAYS, false),
        (FaultKind::Error, 0, ALWAYS, false),
        (FaultKind::Error, 300, ALWAYS, false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let resources = Resources {
            spill_folder: folder.path().into(),
            spill_control: failing(kind, first, count),
            poison: true,
            ..Resources::default()
        };
        let ran = run(&model, Kind::Cpu, Some(resources)).unwrap();
        judge(ran, &expected, recovers, &format!("{kind:?} from {first}, {count} times"));
        assert_eq!(folder.path().read_dir().unwrap().count(), 0, "nothing is left behind");
    }
}

/// Poisoned rings and windows change nothing: whatever is used has arrived before.
#[test]
fn nothing_is_used_before_it_has_arrived() {
    let Some(model) = real("smollm2-135m") else { return };
    for kind in [Kind::Cpu, Kind::Gpu] {
        let Some((expected, _)) = run(&model, kind, None) else { continue };
        let folder = tempfile::tempdir().unwrap();
        let spill_folder = folder.path().to_path_buf();
        let resources = Resources { spill_folder, poison: true, ..Resources::default() };
        let ran = run(&model, kind, Some(resources)).unwrap();
        judge(ran, &expected, true, &format!("{kind:?}"));
    }
}

fn judge((done, error): Ran, expected: &BTreeMap<u64, Vec<u32>>, recovers: bool, what: &str) {
    for (id, tokens) in &done {
        assert_eq!(tokens, &expected[id], "{what}");
    }
    match error {
        None => assert!(recovers && done.len() == expected.len(), "{what}: {done:?}"),
        Some(error) => {
            assert!(!recovers, "{what}: {error}");
            let text = error.to_string();
            assert!(text.contains("finished results are kept"), "{what}: {text}");
        }
    }
}
