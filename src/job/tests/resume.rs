//! Killed, torn, foreign and full outputs.

use super::super::*;
use super::fake::{FakeWorker, Folder};
use serde_json::Value;
use std::fs;

fn lines() -> Vec<u8> {
    let mut text = String::new();
    for index in 0..20 {
        let n = index % 3 + 1;
        let line = format!(r#"{{"custom_id":"r{index}","prompt":"p{index}","n":{n}}}"#);
        text += &(line + "\n");
    }
    text +=
        "{\"custom_id\":\"bad\",\"prompt\":3}\n{\"custom_id\":\"r1\",\"prompt\":\"x\"}\n\nbroken\n";
    text.into_bytes()
}

#[test]
fn a_run_answers_every_line_once() {
    let folder = Folder::new(&lines());
    let outcome = folder.run().unwrap();
    let results = folder.results();
    assert_eq!(results.len(), 23);
    let progress = outcome.progress;
    assert_eq!((progress.total, progress.done, progress.failed), (Some(23), 23, 3));
    assert!(!outcome.interrupted);
    let find = |id: &str| results.iter().find(|value| value["custom_id"] == id).unwrap();
    let good = find("r2");
    assert_eq!(good["error"], Value::Null);
    let body = &good["response"]["body"];
    assert_eq!(body["object"], "text_completion");
    assert_eq!(body["usage"]["prompt_tokens"], 2);
    assert_eq!(body["usage"]["completion_tokens"], 6);
    let choices = body["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 3);
    assert_eq!(choices[2]["index"], 2);
    assert_ne!(choices[0]["text"], choices[1]["text"]);
    let bad = find("bad");
    assert_eq!(bad["response"]["status_code"], 400);
    assert_eq!(bad["response"]["body"]["error"]["param"], "prompt");
    assert_eq!(bad["error"]["code"], "invalid_value");
}

#[test]
fn an_output_cut_anywhere_is_completed() {
    let undisturbed = Folder::new(&lines());
    undisturbed.run().unwrap();
    let (want, bytes) = (undisturbed.sorted(), fs::read(&undisturbed.output).unwrap());
    let folder = Folder::new(&lines());
    folder.run().unwrap();
    for end in (0..bytes.len()).step_by(97).chain([bytes.len() - 1, bytes.len()]) {
        fs::write(&folder.output, &bytes[..end]).unwrap();
        let outcome = folder.run().unwrap();
        assert_eq!(folder.sorted(), want, "cut at {end}");
        assert_eq!(outcome.progress.done, 23);
        let whole = bytes[..end].iter().filter(|&&byte| byte == b'\n').count();
        assert_eq!(outcome.progress.resumed, whole as u64);
    }
}

/// A request without an answer fails by itself: no made-up tokens, and the others go on.
#[test]
fn what_was_not_computed_is_no_answer() {
    let folder = Folder::new(&lines());
    let mut worker = FakeWorker::default();
    worker.undefined_at = Some(2);
    let outcome = folder.run_with(&mut worker, OutputOptions::default()).unwrap();
    assert_eq!((outcome.progress.done, outcome.progress.failed), (23, 4));
    let results = folder.results();
    let failed = results.iter().find(|value| value["error"]["code"] == "undefined_logits").unwrap();
    assert!(failed["error"]["message"].as_str().unwrap().contains("computed no numbers"));
    assert_eq!(failed["response"]["status_code"], 500);
    assert_eq!(results.len(), 23);
}

#[test]
fn a_lost_device_leaves_a_resumable_output() {
    let folder = Folder::new(&lines());
    let mut worker = FakeWorker::default();
    worker.fail_at = Some(9);
    let error = folder.run_with(&mut worker, OutputOptions::default()).unwrap_err();
    assert!(error.to_string().contains("the fake device is gone"));
    assert!(!folder.results().is_empty());
    let outcome = folder.run().unwrap();
    assert!(outcome.progress.resumed > 0);
    let undisturbed = Folder::new(&lines());
    undisturbed.run().unwrap();
    assert_eq!(folder.sorted(), undisturbed.sorted());
    let (_, output) = folder.open(OutputOptions::default()).unwrap();
    assert!(output.is_complete());
}

#[test]
fn unreadable_results_and_doubles_are_done_again() {
    let folder = Folder::new(&lines());
    folder.run().unwrap();
    let want = folder.sorted();
    let text = fs::read_to_string(&folder.output).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines[3] = "{\"id\":\"batch_req_00";
    lines.push(lines[7]);
    fs::write(&folder.output, lines.join("\n") + "\n").unwrap();
    folder.run().unwrap();
    assert_eq!(folder.sorted(), want);
}

#[test]
fn errors_are_kept_unless_they_are_to_be_retried() {
    let folder = Folder::new(&lines());
    folder.run().unwrap();
    let (_, output) = folder.open(OutputOptions::default()).unwrap();
    assert_eq!(output.resumed(), (20, 3));
    drop(output);
    let options = OutputOptions { retry_errors: true, ..OutputOptions::default() };
    let (_, output) = folder.open(options).unwrap();
    assert_eq!(output.resumed(), (20, 0));
    assert_eq!(folder.results().len(), 20);
    drop(output);
    folder.run().unwrap();
    assert_eq!(folder.results().len(), 23);
}

#[test]
fn ordered_results_follow_the_input() {
    let folder = Folder::new(&lines());
    folder.run().unwrap();
    assert_ne!(folder.results(), folder.sorted());
    // Also for an output that is complete already.
    let options = OutputOptions { ordered: true, ..OutputOptions::default() };
    folder.run_with(&mut FakeWorker::default(), options).unwrap();
    assert_eq!(folder.results(), folder.sorted());
    assert_eq!(folder.run().unwrap().progress.resumed, 23);
}

#[test]
fn a_run_that_is_stopped_before_its_first_pass_leaves_what_was_there() {
    let folder = Folder::new(&lines());
    folder.run().unwrap();
    let before = fs::read(&folder.output).unwrap();
    let options = OutputOptions { overwrite: true, ..OutputOptions::default() };
    let outcome = folder.run_until(0, &mut FakeWorker::default(), options).unwrap();
    assert!(outcome.interrupted);
    assert_eq!(fs::read(&folder.output).unwrap(), before);
    assert_eq!(folder.run().unwrap().progress.resumed, 23);
}

#[test]
fn a_line_that_has_begun_is_answered_when_a_run_is_stopped() {
    let folder = Folder::new(b"{\"prompt\":\"a\",\"n\":9}\n{\"prompt\":\"b\"}\n");
    let outcome =
        folder.run_until(1, &mut FakeWorker::default(), OutputOptions::default()).unwrap();
    assert!(outcome.interrupted);
    let results = folder.results();
    assert_eq!(results.len(), 1);
    assert_eq!(results[0]["response"]["body"]["choices"].as_array().unwrap().len(), 9);
}

fn refusal(folder: &Folder) -> String {
    match folder.open(OutputOptions::default()) {
        Err(error @ JobError::Foreign { .. }) => error.to_string(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("taken up"),
    }
}

#[test]
fn foreign_outputs_are_refused_and_kept() {
    let mut folder = Folder::new(&lines());
    fs::write(&folder.output, "my notes\n").unwrap();
    assert!(refusal(&folder).contains("no manifest"));
    assert_eq!(fs::read(&folder.output).unwrap(), b"my notes\n");
    let options = OutputOptions { overwrite: true, ..OutputOptions::default() };
    folder.run_with(&mut FakeWorker::default(), options).unwrap();
    folder.manifest.depends_on("seed", 4);
    assert!(refusal(&folder).contains("seed was 3 and is 4"));
    folder.manifest.depends_on("seed", 3);
    for (text, part) in [
        ("{\"answer\":42}\n", "line 1 is not a result"),
        ("{\"id\":\"batch_req_00000099\"}\n", "the result of another input"),
        ("{\"id\":\"other\"}\n", "the result of another input"),
    ] {
        fs::write(&folder.output, text).unwrap();
        assert!(refusal(&folder).contains(part), "{text}");
        assert_eq!(fs::read_to_string(&folder.output).unwrap(), text);
    }
}

#[test]
fn two_runs_do_not_share_an_output() {
    let folder = Folder::new(&lines());
    let (_, output) = folder.open(OutputOptions::default()).unwrap();
    let busy = folder.open(OutputOptions::default());
    assert!(matches!(busy, Err(JobError::Busy(_))));
    drop(output);
    folder.run().unwrap();
}

#[test]
fn unusable_outputs_are_named() {
    let folder = Folder::new(&lines());
    let input = || Input::open(folder.input.to_str().unwrap(), InputFormat::Auto).unwrap();
    let open = |path: &str| {
        let options = OutputOptions::default();
        let output = Output::open(path, &input(), &folder.manifest, options);
        output.err().map(|error| error.to_string()).unwrap_or_default()
    };
    let parent = folder.input.parent().unwrap().to_str().unwrap();
    assert!(open(parent).contains("is a directory"));
    assert!(open(&format!("{parent}/none/out.jsonl")).contains("none/out.jsonl"));
    assert!(open(folder.input.to_str().unwrap()).contains("both input and output"));
    assert_eq!(fs::read(&folder.input).unwrap(), lines());
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_that_says_what_to_do() {
    let mut folder = Folder::new(&lines());
    folder.output = "/dev/full".into();
    let error = folder.run().unwrap_err();
    assert!(error.to_string().contains("/dev/full"), "{error}");
    assert!(error.hint().unwrap().contains("free some space"));
}

#[test]
fn long_prompts_fail_and_long_answers_are_cut() {
    let long = "x".repeat(64);
    let fits = "y".repeat(63);
    let text = format!(
        "{{\"prompt\":\"{long}\"}}\n{{\"prompt\":[\"a\",\"{long}\"]}}\n{{\"prompt\":\"{fits}\"}}\n"
    );
    let folder = Folder::new(text.as_bytes());
    folder.run().unwrap();
    let results = folder.sorted();
    assert_eq!(results.len(), 3);
    for result in &results[..2] {
        assert_eq!(result["error"]["code"], "context_length_exceeded");
        let message = result["error"]["message"].as_str().unwrap();
        assert!(message.contains("64 tokens; prompt and output together may have 64"));
    }
    assert_eq!(results[2]["response"]["body"]["usage"]["completion_tokens"], 1);
}
