//! Budgets are kept, by every process, and change no token.

use crate::support::{adapter, fixture, model_path};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Answers of a run in the order of their ids, and its summary; `None` if nothing fits (exit code 4).
fn run(folder: &Path, device: &str, flags: &[&str]) -> Option<(Vec<(String, String)>, Value)> {
    let model = model_path("smollm2-135m").expect("checked by the caller");
    let (output, summary) = (folder.join("out.jsonl"), folder.join("summary.json"));
    let profile = if device == "cpu" { "profiles/cpu.json" } else { "profiles/gpu.json" };
    let done = Command::new(env!("CARGO_BIN_EXE_forebay"))
        .args(["run", "--overwrite", "--max-tokens", "8", "--device", device, "-m"])
        .arg(model)
        .arg("-i")
        .arg(folder.join("in.jsonl"))
        .arg("-o")
        .arg(&output)
        .arg("--summary")
        .arg(&summary)
        .arg("--disk-dir")
        .arg(folder.join("disk"))
        .args(flags)
        .env("FOREBAY_PROFILE", fixture("fixtures").join(profile))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    match done.status.code() {
        Some(0) => {}
        Some(4) => {
            assert!(said.contains("what would fit"), "{said}");
            return None;
        }
        code => panic!("{flags:?}: {code:?}: {said}"),
    }
    assert!(
        !said.contains("planning again"),
        "{flags:?}: the plan was not what was allocated: {said}"
    );
    let lines = fs::read_to_string(&output).unwrap();
    let mut answers: Vec<(String, String)> = lines
        .lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let text = &line["response"]["body"]["choices"][0];
            (line["custom_id"].to_string(), text.to_string())
        })
        .collect();
    answers.sort();
    Some((answers, serde_json::from_slice(&fs::read(&summary).unwrap()).unwrap()))
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
    let (Some(adapter), Some(_)) = (adapter(), model_path("smollm2-135m")) else { return };
    let folder = tempfile::tempdir().unwrap();
    prompts(folder.path());
    let (expected, _) = run(folder.path(), &adapter.name, &[]).unwrap();
    let mut planned = 0;
    for (mib, ram) in
        [(120, "auto"), (70, "auto"), (52, "auto"), (49, "300MiB"), (48, "auto"), (20, "auto")]
    {
        let flags = ["--gpu-mem", &format!("{mib}MiB"), "--ram", ram];
        let Some((answers, summary)) = run(folder.path(), &adapter.name, &flags) else { continue };
        planned += 1;
        assert_eq!(answers, expected, "{mib} MiB");
        let peak = summary["peak_bytes"]["device"].as_u64().unwrap();
        assert!(peak <= mib << 20, "{mib} MiB: the device held {peak} bytes");
    }
    assert!((3..6).contains(&planned), "{planned} budgets had a plan");
}
