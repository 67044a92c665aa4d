//! What the command does with good input, bad input, and places it cannot write to.

use crate::support::{adapter, fixture, model_path};
use forebay::backend::DeviceKind;
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// The small model that these tests run, as an argument; `None` (said aloud) where it is missing.
pub(crate) fn model() -> Option<String> {
    Some(model_path("smollm2-135m")?.to_str().unwrap().to_string())
}

/// The real binary, without options from the environment, and with a profile that need not be measured.
pub(crate) fn forebay() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    for (name, _) in std::env::vars_os() {
        let option = name.to_str().is_some_and(|name| name.starts_with("FOREBAY_"));
        if option || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command.env("FOREBAY_PROFILE", fixture("fixtures/profiles/cpu.json"));
    command
}

/// `forebay run` on the cpu.
fn run(model: &str, input: &Path, output: &Path) -> Command {
    run_on("cpu", model, input, output)
}

/// `forebay run` on a device.
pub(crate) fn run_on(device: &str, model: &str, input: &Path, output: &Path) -> Command {
    let mut command = forebay();
    if device != "cpu" {
        let shares_ram = adapter().is_some_and(|found| found.kind == DeviceKind::IntegratedGpu);
        let profile = if shares_ram { "cpu" } else { "gpu" };
        command.env("FOREBAY_PROFILE", fixture(&format!("fixtures/profiles/{profile}.json")));
    }
    command.args(["run", "--device", device, "-m", model, "-i"]).arg(input).arg("-o").arg(output);
    command
}

/// Result lines without their time, sorted by id. Panics at a torn line.
pub(crate) fn results(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "torn end");
    sorted(&text)
}

fn sorted(text: &str) -> Vec<Value> {
    let mut results: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for value in &mut results {
        if let Some(created) = value.pointer_mut("/response/body/created") {
            *created = Value::Null;
        }
    }
    results.sort_by_key(|value| value["id"].to_string());
    results
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_example_prompts_are_all_answered() {
    let Some(model) = model() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (out, summary) = (dir.path().join("out.jsonl"), dir.path().join("summary.json"));
    let input = fixture("../examples/prompts.jsonl");
    let ran = run(&model, &input, &out).arg("--ordered").arg("--summary").arg(&summary).output();
    let ran = ran.unwrap();
    assert_eq!((code(&ran), ran.stdout.as_slice()), (0, b"".as_slice()), "{}", stderr(&ran));
    assert!(!stderr(&ran).contains("WARN"), "{}", stderr(&ran));
    let results = results(&out);
    let asked = fs::read_to_string(&input).unwrap();
    assert_eq!(results.len(), 32);
    for (result, line) in results.iter().zip(asked.lines()) {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(result["custom_id"], line["custom_id"]);
        assert_eq!(result["error"], Value::Null);
        let body = &result["response"]["body"];
        let chat = body["object"] == "chat.completion";
        let pointer = if chat { "/message/content" } else { "/text" };
        assert!(body["choices"][0].pointer(pointer).is_some_and(Value::is_string), "{body}");
        assert!(body["usage"]["completion_tokens"].as_u64().unwrap() > 0, "{body}");
    }
    let summary: Value = serde_json::from_slice(&fs::read(summary).unwrap()).unwrap();
    assert_eq!(summary["requests"]["ok"], 32);
    assert!(summary["tokens_per_second"]["generated"].as_f64().unwrap() > 0.0);
    assert!(summary["peak_bytes"]["device"].as_u64().unwrap() > 0);
}

#[test]
fn bad_lines_fail_by_name_and_good_ones_are_answered() {
    let Some(model) = model() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("in.jsonl"), dir.path().join("out.jsonl"));
    let long = "word ".repeat(9000);
    let prompt = |id: &str, rest: &str| format!("{{\"custom_id\":\"{id}\",{rest}}}");
    let mut file = fs::File::create(&input).unwrap();
    let cases: Vec<(String, &str)> = vec![
        (prompt("good", "\"prompt\":\"One two\",\"max_tokens\":3"), ""),
        ("{\"custom_id\":\"broken\",\"prompt\":\"x".to_string(), "not valid JSON"),
        (prompt("good", "\"prompt\":\"again\""), "\"good\" was used on line 1"),
        ("{\"url\":\"/v1/completions\",\"body\":{\"prompt\":\"x\"}}".to_string(), "custom_id"),
        (prompt("type", "\"prompt\":5"), "prompt: "),
        (prompt("empty", "\"prompt\":\"\""), "prompt is empty"),
        (prompt("long", &format!("\"prompt\":\"{long}\"")), "may have 8192"),
        (prompt("field", "\"prompt\":\"x\",\"tools\":[{}]"), "tools: not supported"),
        (prompt("range", "\"prompt\":\"x\",\"top_p\":7"), "top_p: expected a number from 0 to 1"),
        (prompt("token", "\"prompt\":[49152]"), "token id 49152"),
    ];
    for (line, _) in &cases {
        writeln!(file, "{line}").unwrap();
    }
    file.write_all(
        b"{\"custom_id\":\"utf8\",\"prompt\":\"\xff\"}\n{\"custom_id\":\"huge\",\"prompt\":\"",
    )
    .unwrap();
    for _ in 0..100 {
        file.write_all(&vec![b'x'; 1 << 20]).unwrap();
    }
    writeln!(file, "\"}}\n{}", prompt("last", "\"prompt\":\"One two\",\"max_tokens\":3")).unwrap();
    drop(file);
    let ran = run(&model, &input, &out).output().unwrap();
    assert_eq!(code(&ran), 3, "{}", stderr(&ran));
    let results = results(&out);
    assert_eq!(results.len(), cases.len() + 3);
    for (result, (line, message)) in results.iter().zip(&cases) {
        let found = result["error"]["message"].as_str().unwrap_or("");
        assert!(found.contains(message), "{}: {found}", &line[..line.len().min(80)]);
        assert_eq!(found.is_empty(), message.is_empty());
    }
    let [.., utf8, huge, last] = results.as_slice() else { panic!() };
    assert_eq!(
        (&utf8["custom_id"], &utf8["error"]["code"]),
        (&"utf8".into(), &"invalid_utf8".into())
    );
    assert_eq!(
        (&huge["custom_id"], &huge["error"]["code"]),
        (&"huge".into(), &"line_too_long".into())
    );
    let text = |value: &Value| value["response"]["body"]["choices"][0]["text"].clone();
    assert!(text(last).is_string());
    let ids: Vec<_> = results.iter().filter_map(|result| result["custom_id"].as_str()).collect();
    assert_eq!(ids.iter().filter(|id| **id == "good").count(), 1);
}

#[test]
fn standard_input_to_standard_output() {
    let Some(model) = model() else { return };
    let mut command = run(&model, Path::new("-"), Path::new("-"));
    let mut child = command
        .args(["--max-tokens", "4", "--temperature", "0", "-q"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all("Once upon a time\n\nEs war einmal".as_bytes()).unwrap();
    let ran = child.wait_with_output().unwrap();
    assert_eq!(code(&ran), 0, "{}", stderr(&ran));
    let results = sorted(std::str::from_utf8(&ran.stdout).unwrap());
    let ids: Vec<_> = results.iter().map(|result| result["custom_id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["line-1", "line-3"]);
}

#[test]
fn an_output_of_another_job_is_refused_and_kept() {
    let Some(model) = model() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("in.txt"), dir.path().join("out.jsonl"));
    fs::write(&input, "Once\n").unwrap();
    fs::write(&out, "precious\n").unwrap();
    let command = || {
        let mut command = run(&model, &input, &out);
        command.args(["--max-tokens", "2"]);
        command
    };
    let refused = command().output().unwrap();
    assert_eq!(code(&refused), 6, "{}", stderr(&refused));
    assert!(stderr(&refused).contains("hint: --overwrite"), "{}", stderr(&refused));
    assert_eq!(fs::read_to_string(&out).unwrap(), "precious\n");
    assert_eq!(code(&command().arg("--overwrite").output().unwrap()), 0);
    let before = fs::read(&out).unwrap();
    let again = command().output().unwrap();
    assert_eq!((code(&again), fs::read(&out).unwrap()), (0, before.clone()));
    let other = command().args(["--seed", "5"]).output().unwrap();
    assert_eq!(code(&other), 6);
    assert!(stderr(&other).contains("seed was 0 and is 5"), "{}", stderr(&other));
    assert_eq!(fs::read(&out).unwrap(), before);
}

#[test]
fn what_can_not_be_written_is_named() {
    let Some(model) = model() else { return };
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in.txt");
    fs::write(&input, "Once\n").unwrap();
    let mut cases = vec![
        (dir.path().join("none/out.jsonl"), "none/out.jsonl"),
        (dir.path().to_path_buf(), "is a directory"),
    ];
    if Path::new("/dev/full").exists() {
        cases.push(("/dev/full".into(), "cannot write /dev/full"));
    }
    for (out, message) in cases {
        let ran = run(&model, &input, &out).args(["--max-tokens", "2"]).output().unwrap();
        assert_eq!(code(&ran), 1, "{}", stderr(&ran));
        assert!(stderr(&ran).contains(message), "{}", stderr(&ran));
    }
    let ran = run(&model, &input, &input).output().unwrap();
    assert_eq!(code(&ran), 2, "{}", stderr(&ran));
    assert_eq!(fs::read_to_string(&input).unwrap(), "Once\n");
}

#[test]
fn wrong_arguments_have_their_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let input = file("in.txt", b"Once\n");
    let out = dir.path().join("out.jsonl");
    assert_eq!(code(&forebay().output().unwrap()), 2);
    assert_eq!(code(&run("m", &input, &out).args(["--top-p", "2"]).output().unwrap()), 2);
    for (name, bytes) in [("a.gguf", b"GGUF".as_slice()), ("b.gguf", b""), ("c.gguf", b"nonsense")]
    {
        let model = file(name, bytes);
        let ran = run(model.to_str().unwrap(), &input, &out).output().unwrap();
        assert_eq!(code(&ran), 1, "{}", stderr(&ran));
        assert!(stderr(&ran).contains(name), "{}", stderr(&ran));
    }
    let ran = run("no/such-model", &input, &out).output().unwrap();
    assert_eq!(code(&ran), 1, "{}", stderr(&ran));
    assert!(!out.exists());
    let Some(model) = model() else { return };
    let ran = run(&model, &dir.path().join("none.jsonl"), &out).output().unwrap();
    assert_eq!(code(&ran), 1);
    assert!(stderr(&ran).contains("none.jsonl"), "{}", stderr(&ran));
    let ran = run(&model, &input, &out).args(["--device", "no-such-gpu"]).output().unwrap();
    // Given twice, the last --device would be an error of usage.
    assert_eq!(code(&ran), 2);
    let mut command = forebay();
    command.args(["run", "--device", "no-such-gpu", "-m", &model, "-o"]).arg(&out).arg("-i");
    let ran = command.arg(&input).output().unwrap();
    assert_eq!(code(&ran), 5, "{}", stderr(&ran));
    assert!(stderr(&ran).contains("no-such-gpu"), "{}", stderr(&ran));
}

/// What a run cannot do in the end it refuses at the beginning, and results that are there stay.
#[test]
fn nothing_is_lost_to_a_run_that_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = fixture("fixtures/tiny/llama/model.gguf").to_str().unwrap().to_string();
    let input = dir.path().join("in.txt");
    fs::write(&input, "Once\n").unwrap();
    let (out, missing) = (dir.path().join("out.jsonl"), dir.path().join("missing/s.json"));
    let small = ["--max-model-len", "64", "--max-tokens", "4"];
    let ran = run(&tiny, &input, &out).args(small).output().unwrap();
    assert_eq!(code(&ran), 0, "{}", stderr(&ran));
    let before = fs::read_to_string(&out).unwrap();
    let [results, prompts, missing] = [&out, &input, &missing].map(|path| path.to_str().unwrap());
    for (arguments, expected, said) in [
        (&["--overwrite", "--ram", "1MiB"][..], 4, "RAM"),
        (&["--summary", results], 2, "that is the output"),
        (&["--trace", prompts], 2, "that is the input"),
        (&["--summary", missing], 1, "create the folder"),
        (&["--weights", "ram=80%,disk=80%"], 2, "add up to 160.0 %"),
    ] {
        let ran = run(&tiny, &input, &out).args(small).args(arguments).output().unwrap();
        assert_eq!(code(&ran), expected, "{arguments:?}: {}", stderr(&ran));
        assert!(stderr(&ran).contains(said), "{arguments:?}: {}", stderr(&ran));
        assert_eq!(fs::read_to_string(&out).unwrap(), before, "{arguments:?}");
        assert_eq!(fs::read_to_string(&input).unwrap(), "Once\n");
    }
    let ran = run(&tiny, Path::new(&tiny), &dir.path().join("other.jsonl")).output().unwrap();
    assert!(code(&ran) == 1 && stderr(&ran).contains("it is a GGUF model"), "{}", stderr(&ran));
}

#[test]
fn listings_print_data_and_survive_a_closed_pipe() {
    let devices = forebay().args(["devices", "--json"]).output().unwrap();
    let list: Value = serde_json::from_slice(&devices.stdout).unwrap();
    assert!(list.as_array().unwrap().iter().any(|device| device["kind"] == "CPU"));
    let script = forebay().args(["completions", "bash"]).output().unwrap();
    assert!(String::from_utf8_lossy(&script.stdout).contains("_forebay"));
    let mut child = forebay().arg("man").stdout(Stdio::piped()).spawn().unwrap();
    close_early(&mut child);
    assert!(child.wait().unwrap().success());
    let Some(model) = model() else { return };
    let inspect = forebay().args(["inspect", &model, "--json"]).output().unwrap();
    let about: Value = serde_json::from_slice(&inspect.stdout).unwrap();
    assert_eq!(about["architecture"], "llama");
    assert_eq!(about["layers"].as_array().unwrap().len(), 30);
}

/// Reads a byte and goes away.
fn close_early(child: &mut Child) {
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0]).unwrap();
}
