//! Draft trees from the command line: answers, reports, refusals.

use crate::cli::{model, results, run_on};
use crate::support::{fixture, model_path};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn tiny(name: &str) -> String {
    fixture("fixtures/tiny").join(name).join("model.gguf").to_str().unwrap().to_string()
}

fn prompts(folder: &Path) -> PathBuf {
    let path = folder.join("in.jsonl");
    let lines = ["one two one two one", "the law", "a b c a b c a b"]
        .map(|text| format!("{{\"prompt\":\"{text}\",\"max_tokens\":24,\"ignore_eos\":true}}\n"));
    fs::write(&path, lines.concat()).unwrap();
    path
}

/// `forebay run` of a tiny model, its cache in `folder`.
fn run(folder: &Path, out: &str, arguments: &[&str]) -> Command {
    let mut command = run_on("cpu", &tiny("llama"), &prompts(folder), &folder.join(out));
    command.env("XDG_CACHE_HOME", folder).args(arguments).args(["--max-model-len", "64"]);
    command
}

fn outcome(mut command: Command) -> (i32, String) {
    let Output { status, stderr, .. } = command.output().unwrap();
    (status.code().unwrap_or(-1), String::from_utf8_lossy(&stderr).into_owned())
}

#[test]
fn answers_are_the_same_with_trees_and_the_summary_tells() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let (code, text) = outcome(run(folder, "plain.jsonl", &[]));
    assert_eq!(code, 0, "{text}");
    let summary = folder.join("summary.json");
    let told = summary.to_str().unwrap();
    let draft = tiny("qwen3");
    for arguments in [
        &["--draft", draft.as_str(), "--speculate", "16", "--summary", told][..],
        &["--draft", "lookup", "--speculate", "8", "--batch", "1", "--summary", told],
        &["--speculate", "8", "--summary", told],
        &["--draft", "self", "--speculate", "12", "--summary", told],
        &["--draft", "self", "--speculate", "8", "--weights", "ram=80%", "--summary", told],
    ] {
        let (code, text) =
            outcome(run(folder, "trees.jsonl", &[arguments, &["--overwrite"]].concat()));
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("draft trees of"), "{text}");
        assert_eq!(results(&folder.join("trees.jsonl")), results(&folder.join("plain.jsonl")));
        let summary: Value = serde_json::from_slice(&fs::read(&summary).unwrap()).unwrap();
        let trees = &summary["speculation"];
        assert!(trees["trees"].as_u64().unwrap() > 0, "{trees}");
        assert!(trees["tokens_per_pass"].as_f64().unwrap() >= 1.0, "{trees}");
        assert!(trees["nodes_per_tree"].as_f64().unwrap() <= 16.0, "{trees}");
        assert_eq!(trees["nodes_refused"], 0, "{trees}");
        assert_eq!(trees["failure"], Value::Null);
    }
    // An output of plain decoding goes on with trees: they are no part of the job.
    let (code, text) = outcome(run(folder, "plain.jsonl", &["--speculate", "8"]));
    assert!(code == 0 && text.contains("3 requests are answered"), "{code} {text}");
}

/// Passes and growths of trees are events of the trace, predictions beside what was measured; the plan says
/// what trees have to bring.
#[test]
fn the_trace_and_the_plan_tell_of_trees() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace.json");
    let draft = tiny("qwen3");
    let arguments = ["--draft", &draft, "--speculate", "6", "--trace", trace.to_str().unwrap()];
    let (code, text) = outcome(run(dir.path(), "out.jsonl", &arguments));
    assert_eq!(code, 0, "{text}");
    let trace = fs::read_to_string(&trace).unwrap();
    assert!(trace.contains("grow 3 trees of"), "{trace}");
    let verified = trace.split("verify ").nth(1).unwrap().split('"').next().unwrap();
    for part in ["tokens, ", "accepted", " s predicted, "] {
        assert!(verified.contains(part), "{verified}");
    }
    let mut plan = Command::new(env!("CARGO_BIN_EXE_forebay"));
    plan.args(["plan", "-m", &tiny("llama"), "-i", prompts(dir.path()).to_str().unwrap()]);
    plan.args(["--device", "cpu", "--max-model-len", "64", "--draft", "lookup"]);
    let Output { status, stdout, stderr, .. } =
        plan.env("XDG_CACHE_HOME", dir.path()).output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    let text = String::from_utf8_lossy(&stdout);
    for part in ["draft trees: ", "by nodes of draft trees", "are faster than none from"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// A sure draft expands nodes that others outdo later: its cache has room for those too.
#[test]
fn large_trees_have_room_in_the_cache_of_the_draft() {
    let Some(path) = model_path("smollm2-135m") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (input, told) = (dir.path().join("in.jsonl"), dir.path().join("summary.json"));
    fs::write(&input, "{\"prompt\":\"One, two, three, four, five,\",\"max_tokens\":96}\n").unwrap();
    let path = path.to_str().unwrap();
    let mut command = run_on("cpu", path, &input, &dir.path().join("out.jsonl"));
    command.env("XDG_CACHE_HOME", dir.path()).args(["--draft", path, "--speculate", "256"]);
    command.arg("--summary").arg(&told);
    let (code, text) = outcome(command);
    assert_eq!(code, 0, "{text}");
    let summary: Value = serde_json::from_slice(&fs::read(&told).unwrap()).unwrap();
    let trees = &summary["speculation"];
    assert_eq!(trees["nodes_refused"], 0, "{trees}");
    assert!(trees["nodes_per_tree"].as_f64().unwrap() > 128.0, "{trees}");
}

#[test]
fn a_draft_as_large_as_the_model_is_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    let same = tiny("llama");
    let (code, text) =
        outcome(run(dir.path(), "out.jsonl", &["--draft", &same, "--speculate", "8"]));
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("seldom pays: predicted"), "{text}");
}

#[test]
fn a_draft_of_other_tokens_is_refused() {
    let Some(other) = model() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (code, text) = outcome(run(dir.path(), "out.jsonl", &["--draft", &other]));
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("its vocabulary is not that of model"), "{text}");
    let (code, text) = outcome(run(dir.path(), "out.jsonl", &["--draft", "/nowhere.gguf"]));
    assert!(code == 1 && text.contains("/nowhere.gguf"), "{code} {text}");
    let (code, text) = outcome(run(dir.path(), "out.jsonl", &["--speculate", "many"]));
    assert!(code == 2 && text.contains("auto, off, or a number"), "{code} {text}");
    assert!(!dir.path().join("out.jsonl").exists());
}

#[test]
fn a_draft_that_does_not_fit_is_refused_with_bytes() {
    let Some(target) = model() else { return };
    let dir = tempfile::tempdir().unwrap();
    let input = prompts(dir.path());
    let run = |arguments: &[&str]| {
        let mut command = run_on("cpu", &target, &input, &dir.path().join("out.jsonl"));
        command.env("XDG_CACHE_HOME", dir.path()).args(arguments).args(["--overwrite"]);
        outcome(command)
    };
    // The model streams; a second one of its size has no room beside it.
    let small = ["--ram", "150MiB", "--max-model-len", "256", "--draft", &target];
    let (code, text) = run(&[&small[..], &["--speculate", "64"]].concat());
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("MiB"), "{text}");
    let (code, text) = run(&["--draft", "self", "--draft-home", "ram"]);
    assert!(code == 2 && text.contains("--draft-home ram: the model drafts for itself"), "{text}");
    let (code, text) = run(&["--draft", &target, "--draft-home", "gpu"]);
    assert!(code == 2 && text.contains("no memory of its own"), "{code} {text}");
    // Left to itself, the plan does without.
    let (code, text) = run(&small);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("no draft trees"), "{text}");
}

#[test]
fn a_policy_is_followed_and_held_against_the_arguments() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let policy = folder.join("policy.json");
    let policy = policy.to_str().unwrap();
    let mut plan = Command::new(env!("CARGO_BIN_EXE_forebay"));
    plan.args(["plan", "-m", &tiny("llama"), "-i", prompts(folder).to_str().unwrap()]);
    plan.args(["--device", "cpu", "--max-model-len", "64", "--emit", policy]);
    plan.args(["--draft", "lookup", "--speculate", "8", "--batch", "2"])
        .env("XDG_CACHE_HOME", folder);
    let (code, text) = outcome(plan);
    assert_eq!(code, 0, "{text}");
    let draft = tiny("qwen3");
    for (arguments, said) in [
        (&["--draft", "lookup", "--batch", "3"][..], "the policy has 2 where --batch says 3"),
        (&["--draft", "lookup", "--speculate", "9"], "has 8 where --speculate says 9"),
        (&["--speculate", "off"], "trees of 8 nodes; name their draft with --draft lookup"),
        (&["--draft", &draft], "trees are of lookup, and --draft is"),
        (&["--draft", "lookup", "--weights", "ram=50%"], "leave --weights out, or --plan"),
    ] {
        let (code, text) =
            outcome(run(folder, "no.jsonl", &[arguments, &["--plan", policy]].concat()));
        assert!(
            code == 2 && text.contains(said) && text.contains(policy),
            "{arguments:?}: {code} {text}"
        );
    }
    let arguments = ["--draft", "lookup", "--speculate", "8", "--batch", "2", "--plan", policy];
    let (code, text) = outcome(run(folder, "out.jsonl", &arguments));
    assert!(code == 0 && text.contains("draft trees of"), "{code} {text}");
    let (code, text) = outcome(run(folder, "plain.jsonl", &[]));
    assert_eq!(code, 0, "{text}");
    assert_eq!(results(&folder.join("out.jsonl")), results(&folder.join("plain.jsonl")));
}
