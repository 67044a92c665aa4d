//! Synthetic models: written, inspected, run, and refused.

use crate::cli::{forebay, results, run_on};
use crate::support::open;
#[cfg(unix)]
use crate::support::signal;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A folder with a shape of every architecture, and a place for models.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        Bench { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a small shape, changed by `change`.
    fn shape(&self, architecture: &str, change: Value) -> PathBuf {
        let mut shape = json!({"architecture": architecture, "layers": 3, "hidden": 256, "heads": 4,
            "kv_heads": 2, "feed_forward": 512, "vocab": 1000, "context": 512});
        let more = change.as_object().unwrap().clone();
        shape.as_object_mut().unwrap().extend(more);
        let path = self.path(&format!("{architecture}.json"));
        fs::write(&path, shape.to_string()).unwrap();
        path
    }

    /// `forebay synth`; its exit code and what it said.
    fn synth(&self, shape: &Path, output: &str, more: &[&str]) -> (i32, String) {
        let mut command = self.command(shape, output);
        let ran = command.args(more).output().unwrap();
        (ran.status.code().unwrap_or(-1), String::from_utf8_lossy(&ran.stderr).into_owned())
    }

    fn command(&self, shape: &Path, output: &str) -> Command {
        let mut command = forebay();
        command.args(["synth", "--shape"]).arg(shape).arg("-o").arg(self.path(output));
        command
    }

    /// Names of the models, and of what was left unfinished.
    fn files(&self) -> Vec<String> {
        let names = fs::read_dir(self.dir.path()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| !name.ends_with(".json")).collect();
        names.sort();
        names
    }
}

#[test]
fn a_synthetic_model_answers_prompts() {
    let bench = Bench::new();
    let shape = bench.shape("llama", json!({}));
    let (code, said) = bench.synth(&shape, "m.gguf", &["--quant", "q4_k_m"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("forebay: wrote ") && said.contains("/s)"), "{said}");
    assert_eq!(bench.files(), ["m.gguf"]);
    let (input, out) = (bench.path("in.jsonl"), bench.path("out.jsonl"));
    let lines = [
        json!({"custom_id": "a", "prompt": "Once upon a time", "max_tokens": 8}),
        json!({"custom_id": "b", "prompt": "naïve 東京 🚀", "max_tokens": 8}),
        json!({"custom_id": "c", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}),
    ];
    fs::write(&input, lines.map(|line| line.to_string()).join("\n")).unwrap();
    let model = bench.path("m.gguf");
    let mut command = run_on("cpu", model.to_str().unwrap(), &input, &out);
    let ran = command.args(["--ignore-eos", "--temperature", "0"]).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let results = results(&out);
    assert_eq!(results.len(), 3);
    for result in results {
        let body = &result["response"]["body"];
        assert_eq!(body["usage"]["completion_tokens"], 8, "{result}");
        let text = ["/choices/0/text", "/choices/0/message/content"];
        let text = text.iter().find_map(|at| body.pointer(at)?.as_str()).unwrap();
        assert!(!text.is_empty(), "{result}");
    }
}

#[test]
fn a_seed_is_a_file() {
    let bench = Bench::new();
    let shape = bench.shape("qwen2", json!({"tied_head": true}));
    for (output, seed) in [("a.gguf", "7"), ("b.gguf", "7"), ("c.gguf", "8")] {
        assert_eq!(bench.synth(&shape, output, &["--seed", seed]).0, 0);
    }
    let read = |name: &str| fs::read(bench.path(name)).unwrap();
    assert_eq!(read("a.gguf"), read("b.gguf"));
    let (a, c) = (read("a.gguf"), read("c.gguf"));
    let same = a.iter().zip(&c).filter(|(a, c)| a == c).count();
    assert!(a.len() == c.len() && same < a.len() / 2, "{same} of {}", a.len());
    // What is there stays, unless it may be replaced.
    let (code, said) = bench.synth(&shape, "a.gguf", &["--seed", "8"]);
    assert_eq!((code, read("a.gguf") == a), (2, true), "{said}");
    assert!(said.contains("a.gguf is there already; --overwrite"), "{said}");
    let (code, said) = bench.synth(&shape, "a.gguf", &["--seed", "8", "--overwrite"]);
    assert_eq!((code, read("a.gguf") == c), (0, true), "{said}");
    assert_eq!(bench.files(), ["a.gguf", "b.gguf", "c.gguf"]);
}

/// Perplexity on the cpu.
fn perplexity(model: &Path, text: &Path) -> f64 {
    let mut command = forebay();
    command.args(["eval", "perplexity", "--json", "--ctx", "64", "--device", "cpu", "-m"]);
    let ran = command.arg(model).arg("-f").arg(text).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    serde_json::from_slice::<Value>(&ran.stdout).unwrap()["perplexity"].as_f64().unwrap()
}

/// Activations keep their scale, whatever the type and the architecture: no token is likely, and none
/// impossible.
#[test]
fn every_quantization_and_architecture_knows_nothing() {
    let bench = Bench::new();
    let text = bench.path("text.json");
    fs::write(&text, "It was a bright cold day, and the clocks were striking. ".repeat(20))
        .unwrap();
    let check = |architecture: &str, change: Value, quant: &str| {
        let shape = bench.shape(architecture, change);
        let (code, said) = bench.synth(&shape, "m.gguf", &["--quant", quant, "--overwrite"]);
        assert_eq!(code, 0, "{said}");
        let found = perplexity(&bench.path("m.gguf"), &text);
        eprintln!("| {architecture} | {quant} | {found:.0} |");
        assert!((700.0..4000.0).contains(&found), "{architecture} {quant}: perplexity {found}");
    };
    let quants = "q4_0 q4_1 q5_0 q5_1 q8_0 q4_k q5_k q6_k f16 bf16 f32 q4_k_m q5_k_m";
    quants.split(' ').for_each(|quant| check("llama", json!({}), quant));
    check("llama", json!({"rope_scaling": {"llama3": 8}, "layers": 12}), "q4_k_m");
    // Rows of 160 do not fill super-blocks.
    check("qwen2", json!({"hidden": 160, "tied_head": true}), "q4_k_m");
    check("qwen3", json!({"head_dim": 32}), "q5_k_m");
    check("gemma3", json!({"layers": 7, "window": 8, "rope_scaling": {"linear": 8}}), "q4_k");
}

#[test]
fn the_header_of_a_large_model_is_enough_to_inspect_it() {
    let bench = Bench::new();
    let started = Instant::now();
    let more = ["--quant", "q4_k_m", "--header-only"];
    let (code, said) = bench.synth(Path::new("llama-3-70b"), "large.gguf", &more);
    assert_eq!(code, 0, "{said}");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let path = bench.path("large.gguf");
    let length = fs::metadata(&path).unwrap().len();
    assert!((42_500_000_000..42_540_000_000).contains(&length), "{length}");
    #[cfg(unix)]
    {
        let taken = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&path).unwrap()) * 512;
        assert!(taken < 32 << 20, "{taken} bytes on disk");
    }
    let about = forebay().args(["inspect", "--json"]).arg(&path).output().unwrap();
    let about: Value = serde_json::from_slice(&about.stdout).unwrap();
    assert_eq!(about["parameters"], 70_553_706_496u64);
    assert_eq!(about["layers"].as_array().unwrap().len(), 80);
    assert_eq!(about["name"], "synthetic llama-3-70b");
    let model = open(&path);
    assert_eq!(model.tokenizer.vocab_len(), 128_256);
    assert_eq!(about["weights_bytes"], model.files.total_bytes());
}

#[test]
fn what_can_not_be_written_is_refused_and_leaves_nothing() {
    let bench = Bench::new();
    let refuse = |shape: &Path, output: &str, more: &[&str], want: i32, part: &str| {
        let (code, said) = bench.synth(shape, output, more);
        assert_eq!(code, want, "{said}");
        assert!(said.contains(part), "{said}");
        assert!(bench.files().is_empty(), "{:?}", bench.files());
    };
    refuse(Path::new("llama-4"), "m.gguf", &[], 2, "known: llama-3-8b");
    refuse(&bench.shape("llama", json!({})), "m.gguf", &["--quant", "q3_k"], 2, "q4_k_m");
    refuse(&bench.shape("llama", json!({"kv": 1})), "m.gguf", &[], 1, "unknown field `kv`");
    refuse(&bench.shape("gpt2", json!({})), "m.gguf", &[], 1, "`gpt2` is not supported");
    let huge = json!({"layers": 4096, "hidden": 1 << 20, "head_dim": 64, "feed_forward": 1 << 24});
    let huge = bench.shape("llama", huge);
    refuse(&huge, "m.gguf", &["--quant", "f32"], 4, "are missing; free them");
    let good = bench.shape("llama", json!({}));
    refuse(&good, "none/m.gguf", &[], 1, "none/m.gguf");
    refuse(&good, ".", &["--overwrite"], 1, "is not a regular file");
    let mut command = forebay();
    let ran = command.args(["synth", "-o", "-", "--shape"]).arg(&good).output().unwrap();
    assert_eq!(ran.status.code(), Some(2));
}

#[cfg(unix)]
#[test]
fn an_interrupted_model_is_removed() {
    let bench = Bench::new();
    let mut command = bench.command(Path::new("llama-3.2-1b"), "m.gguf");
    let mut child = command.args(["--quant", "q8_0"]).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while bench.files().is_empty() && started.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(bench.files().len(), 1);
    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(bench.files().is_empty(), "{:?}", bench.files());
}
