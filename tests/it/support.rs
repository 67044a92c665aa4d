//! What several test modules need: models, devices, engines.

use forebay::backend::{Device, cpu::CpuDevice, gpu, reference::ReferenceDevice};
use forebay::exec::{Executor, ExecutorConfig};
use forebay::generate::{Completion, Engine, EngineConfig, Request};
use forebay::kernel::{KvFormat, PAGE_LEN};
use forebay::sample::SamplingParams;
use forebay::store::ModelFiles;
use forebay::tokenizer::Tokenizer;
use std::env;
use std::path::{Path, PathBuf};
#[cfg(unix)]
use std::process::{Child, Command};
use std::sync::Arc;

/// The four real models.
pub(crate) const MODELS: [&str; 4] =
    ["smollm2-135m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b", "gemma3-270m"];

/// Sends a signal, named as `kill` has it.
#[cfg(unix)]
pub(crate) fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
}

/// A file below `tests/`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

/// Path of a real model, or `None` (said aloud) where it has not been brought.
pub(crate) fn model_path(name: &str) -> Option<PathBuf> {
    let cache = || env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let folder = env::var_os("FOREBAY_MODELS")
        .map(PathBuf::from)
        .or_else(|| Some(cache().or_else(home)?.join("forebay/models")));
    let path = folder?.join(format!("{name}.gguf"));
    if path.exists() {
        return Some(path);
    }
    let required = env::var_os("FOREBAY_MODELS_REQUIRED").is_some_and(|v| v == "1");
    assert!(!required, "{} is missing; run scripts/get-model {name}", path.display());
    eprintln!("skipped: {} is missing; run scripts/get-model {name}", path.display());
    None
}

/// An opened model with its tokenizer.
#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) files: Arc<ModelFiles>,
    pub(crate) tokenizer: Arc<Tokenizer>,
}

/// Opens a model file or folder.
pub(crate) fn open(path: &Path) -> Model {
    let files = ModelFiles::open(path.to_str().unwrap()).unwrap();
    let tokenizer = Tokenizer::new(&files.tokenizer_source().unwrap()).unwrap();
    Model { files: Arc::new(files), tokenizer: Arc::new(tokenizer) }
}

/// A real model, or `None` where it has not been brought.
pub(crate) fn real(name: &str) -> Option<Model> {
    model_path(name).map(|path| open(&path))
}

/// A device of each kind under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Reference,
    Cpu,
    Gpu,
}

/// The adapter that tests of the gpu device use, or `None` (said aloud) where there is none.
///
/// `FOREBAY_GPU=require` turns a missing adapter into a failure, `skip` skips without looking.
pub(crate) fn adapter() -> Option<gpu::AdapterSummary> {
    let wish = env::var("FOREBAY_GPU").unwrap_or_else(|_| "auto".to_string());
    let found = (wish != "skip").then(gpu::adapters).into_iter().flatten().next();
    assert!(found.is_some() || wish != "require", "FOREBAY_GPU=require: there is no adapter");
    if found.is_none() {
        eprintln!("skipped: no adapter (FOREBAY_GPU={wish})");
    }
    found
}

/// Opens a device, or `None` where there is no adapter.
pub(crate) fn device(kind: Kind) -> Option<Box<dyn Device>> {
    Some(match kind {
        Kind::Reference => Box::new(ReferenceDevice::new()),
        Kind::Cpu => Box::new(CpuDevice::new(None).unwrap()),
        Kind::Gpu => {
            let selector = gpu::Selector::Index(adapter()?.index);
            Box::new(gpu::GpuDevice::open(&selector).unwrap())
        }
    })
}

/// An executor over a fresh device.
pub(crate) fn executor(
    model: &Model,
    kind: Kind,
    rows: usize,
    positions: usize,
    kv_format: KvFormat,
) -> Option<Executor> {
    let config = ExecutorConfig::resident(rows, positions.div_ceil(PAGE_LEN));
    let config = ExecutorConfig { kv_format, ..config };
    let device = device(kind)?;
    Some(Executor::new(device, Arc::clone(&model.files), config, &mut |_, _| {}).unwrap())
}

/// An engine over a fresh device whose cache holds `positions` in a format.
pub(crate) fn engine(
    model: &Model,
    kind: Kind,
    config: EngineConfig,
    positions: usize,
    kv_format: KvFormat,
) -> Option<Engine<'_>> {
    let executor = executor(model, kind, config.rows(), positions, kv_format)?;
    Some(Engine::new(executor, &model.tokenizer, config))
}

/// A greedy request that stops only at an end token.
pub(crate) fn greedy(id: u64, prompt: &[u32], max_tokens: usize) -> Request {
    Request {
        id,
        prompt: prompt.to_vec(),
        sampling: SamplingParams::default(),
        choice: 0,
        max_tokens,
        stop: Vec::new(),
        ignore_eos: false,
    }
}

/// Runs requests to their end; completions in the order of their ids.
pub(crate) fn complete(engine: &mut Engine<'_>, requests: Vec<Request>) -> Vec<Completion> {
    requests.into_iter().for_each(|request| engine.submit(request).unwrap());
    let mut done = Vec::new();
    while !engine.is_idle() {
        done.extend(engine.step().unwrap());
    }
    done.sort_by_key(|completion| (completion.id, completion.choice));
    done
}
