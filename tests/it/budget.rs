//! Budgets are kept, by every process, and change no token.

use crate::cli;
use crate::support::{adapter, fixture, model_path};
use forebay::backend::DeviceKind;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Answers of a run in the order of their ids, and its summary; `None` if nothing fits.
fn run(folder: &Path, device: &str, flags: &[&str]) -> Option<(Vec<Value>, Value)> {
    let model = cli::model()?;
    let (output, summary) = (folder.join("out.jsonl"), folder.join("summary.json"));
    let mut command = cli::run_on(device, &model, &folder.join("in.jsonl"), &output);
    command.args(["--overwrite", "--max-tokens", "4"]).args(flags);
    command.arg("--summary").arg(&summary).arg("--disk-dir").arg(folder.join("disk"));
    let done = command.output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    if done.status.code() == Some(4) {
        assert!(said.contains("what would fit"), "{flags:?}: {said}");
        return None;
    }
    assert!(done.status.success(), "{flags:?}: {said}");
    assert!(!said.contains("planning again"), "{flags:?}: more was allocated than planned: {said}");
    let summary = serde_json::from_slice(&fs::read(&summary).unwrap()).unwrap();
    Some((cli::results(&output), summary))
}

fn prompts(folder: &Path) {
    let all = fs::read_to_string(fixture("../examples/prompts.jsonl")).unwrap();
    let few: Vec<&str> = all.lines().step_by(8).collect();
    fs::write(folder.join("in.jsonl"), few.join("\n") + "\n").unwrap();
}

/// From what fits everything down to what fits nothing.
#[test]
fn ram_stays_within_its_budget() {
    if model_path("smollm2-135m").is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    prompts(folder.path());
    let (expected, _) = run(folder.path(), "cpu", &[]).unwrap();
    let mut planned = 0;
    for mib in [220, 140, 110, 100, 92, 88, 84, 76, 40] {
        let flags = ["--ram", &format!("{mib}MiB")];
        let Some((answers, summary)) = run(folder.path(), "cpu", &flags) else { continue };
        planned += 1;
        assert_eq!(answers, expected, "{mib} MiB");
        let peak = summary["peak_bytes"]["ram"].as_u64().unwrap();
        assert!(peak <= mib << 20, "{mib} MiB: {peak} bytes were resident");
    }
    assert!((4..9).contains(&planned), "{planned} budgets had a plan");
}

/// On a device with memory of its own: every budget that has a plan is one that can be allocated.
#[test]
fn device_memory_stays_within_its_budget() {
    let adapter = adapter().filter(|found| found.kind != DeviceKind::IntegratedGpu);
    let (Some(adapter), Some(_)) = (adapter, model_path("smollm2-135m")) else { return };
    let folder = tempfile::tempdir().unwrap();
    prompts(folder.path());
    let (expected, _) = run(folder.path(), &adapter.name, &[]).unwrap();
    let mut planned = 0;
    for mib in [120, 57, 54, 53, 20] {
        let flags = ["--gpu-mem", &format!("{mib}MiB")];
        let Some((answers, summary)) = run(folder.path(), &adapter.name, &flags) else { continue };
        planned += 1;
        assert_eq!(answers, expected, "{mib} MiB");
        let peak = summary["peak_bytes"]["device"].as_u64().unwrap();
        assert!(peak <= mib << 20, "{mib} MiB: the device held {peak} bytes");
    }
    assert!((3..5).contains(&planned), "{planned} budgets had a plan");
}

/// An integrated GPU or a software adapter takes nothing from where it lies in RAM: what is read is uploaded.
#[test]
fn weights_stream_to_devices_that_share_memory() {
    let folder = tempfile::tempdir().unwrap();
    prompts(folder.path());
    let model = fixture("fixtures/tiny/llama/model.gguf");
    let output = folder.path().join("out.jsonl");
    let shares = |kind| matches!(kind, DeviceKind::IntegratedGpu | DeviceKind::SoftwareGpu);
    let adapter = adapter().filter(|found| shares(found.kind)).map(|found| found.name);
    let devices = ["reference".to_string()].into_iter().chain(adapter);
    for device in devices {
        let run = |weights: &str| {
            let input = folder.path().join("in.jsonl");
            let mut command = cli::run_on(&device, model.to_str().unwrap(), &input, &output);
            command.env("FOREBAY_PROFILE", fixture("fixtures/profiles/cpu.json"));
            command.args(["--overwrite", "--max-model-len", "64", "--max-tokens", "4"]);
            command.args(["--weights", weights, "--disk-dir"]).arg(folder.path().join("disk"));
            let done = command.output().unwrap();
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(said.contains("answered") && !said.contains("NaN"), "{device}: {said}");
            (cli::results(&output), said)
        };
        let (expected, _) = run("ram=100%");
        let (answers, said) = run("disk=100%");
        assert_eq!(answers, expected, "{device}");
        assert!(said.contains("uploaded"), "{device}: {said}");
    }
}

/// Answers end long before `max_tokens`: there is another plan for what is left, and the same tokens.
#[test]
fn a_plan_follows_the_lengths_of_answers() {
    if model_path("smollm2-135m").is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let line = |i: usize| {
        let body = r#""max_tokens": 1500, "stop": [".", "\n", ","], "temperature": 0.7"#;
        format!("{{\"prompt\": \"Number {i}. The opposite of hot is\", {body}, \"seed\": {i}}}\n")
    };
    fs::write(folder.path().join("in.jsonl"), (0..96).map(line).collect::<String>()).unwrap();
    let output = |name: &str| folder.path().join(name);
    let run = |name: &str, flags: &[&str]| {
        let model = cli::model().unwrap();
        let input = folder.path().join("in.jsonl");
        let mut command = cli::run_on("cpu", &model, &input, &output(name));
        command.arg("--disk-dir").arg(folder.path().join("disk")).args(flags);
        let done = command.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stderr).into_owned()
    };
    let said = run("small.jsonl", &["--ram", "130MiB"]);
    assert!(said.contains("answers have") && said.contains("planning again"), "{said}");
    run("all.jsonl", &[]);
    assert_eq!(cli::results(&output("small.jsonl")), cli::results(&output("all.jsonl")));
}
