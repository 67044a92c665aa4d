//! Killed and interrupted runs: what they leave is taken up, and the answers are those of a run that
//! nobody disturbed.

use crate::cli::{model, results, run_on};
use crate::support::adapter;
#[cfg(unix)]
use crate::support::signal;
use serde_json::Value;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
#[cfg(unix)]
use std::process::Child;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A run with a small cache, so that starting takes little of the time in which it may be killed.
fn run(device: &str, model: &str, input: &Path, output: &Path) -> Command {
    let mut command = run_on(device, model, input, output);
    command.args(["--max-model-len", "128"]);
    command
}

/// Lines of uneven length, good and bad, with one choice and several.
fn write_input(folder: &Path, good: usize) -> PathBuf {
    let mut text = String::new();
    for index in 0..good {
        let (tokens, n) = (4 + index * 7 % 29, 1 + index % 2);
        text += &format!(
            "{{\"custom_id\":\"r{index}\",\"prompt\":\"Story number {index}:\",\"max_tokens\":{tokens},\
             \"n\":{n},\"temperature\":0.8}}\n"
        );
    }
    text += "{\"custom_id\":\"bad\",\"prompt\":[]}\nbroken\n";
    let input = folder.join("in.jsonl");
    fs::write(&input, text).unwrap();
    input
}

fn check(found: &[Value], want: &[Value]) {
    assert_eq!(found, want);
    let ids: Vec<_> = found.iter().map(|result| result["custom_id"].to_string()).collect();
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
}

#[test]
fn cpu_runs_killed_at_random_moments_end_as_if_undisturbed() {
    kill_at_random("cpu", 40, 20);
}

#[test]
fn gpu_runs_killed_at_random_moments_end_as_if_undisturbed() {
    let Some(adapter) = adapter() else { return };
    kill_at_random(&adapter.index.to_string(), 8, 4);
}

fn kill_at_random(device: &str, requests: usize, kills: usize) {
    let Some(model) = model() else { return };
    let dir = tempfile::tempdir().unwrap();
    let input = write_input(dir.path(), requests);
    let (calm, out) = (dir.path().join("calm.jsonl"), dir.path().join("out.jsonl"));
    let start = Instant::now();
    let status = run(device, &model, &input, &calm).arg("-q").status().unwrap();
    let undisturbed = start.elapsed();
    assert_eq!(status.code(), Some(3));
    let want = results(&calm);
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let (mut killed, mut resumed) = (0, 0);
    while killed < kills {
        // Draft trees are no part of a job: every other run has some.
        let trees: &[&str] = if killed % 2 == 1 { &["--speculate", "6"] } else { &[] };
        let mut child = run(device, &model, &input, &out);
        let mut child = child.args(trees).arg("-q").stderr(Stdio::null()).spawn().unwrap();
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        sleep(undisturbed.mul_f64((random >> 40) as f64 / (1u64 << 24) as f64));
        if child.try_wait().unwrap().is_some() {
            check(&results(&out), &want);
            fs::remove_file(&out).unwrap();
            continue;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        killed += 1;
        resumed += usize::from(fs::metadata(&out).is_ok_and(|metadata| metadata.len() > 0));
    }
    let status = run(device, &model, &input, &out).arg("-q").status().unwrap();
    assert_eq!(status.code(), Some(3));
    check(&results(&out), &want);
    assert!(resumed > 0, "no kill came after the first result");
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_finishes_what_is_in_flight() {
    let Some(model) = model() else { return };
    let dir = tempfile::tempdir().unwrap();
    let input = write_input(dir.path(), 40);
    let (calm, out) = (dir.path().join("calm.jsonl"), dir.path().join("out.jsonl"));
    assert_eq!(run("cpu", &model, &input, &calm).arg("-q").status().unwrap().code(), Some(3));
    let mut command = run("cpu", &model, &input, &out);
    let mut child = command.args(["--batch", "2"]).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_a_result(&mut child, &out);
    // Not INT, which a shell has what it starts in the background ignore.
    signal(&child, "-TERM");
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(130), "{said}");
    assert!(said.contains("interrupted"), "{said}");
    let (want, partial) = (results(&calm), results(&out));
    assert!(partial.len() < want.len());
    assert!(partial.iter().all(|result| want.contains(result)));
    assert_eq!(run("cpu", &model, &input, &out).arg("-q").status().unwrap().code(), Some(3));
    check(&results(&out), &want);
}

#[cfg(unix)]
#[test]
fn a_run_that_was_started_to_ignore_hangups_goes_on() {
    let Some(model) = model() else { return };
    let dir = tempfile::tempdir().unwrap();
    let input = write_input(dir.path(), 40);
    let out = dir.path().join("out.jsonl");
    let plain = run("cpu", &model, &input, &out);
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(plain.get_program());
    command.args(plain.get_args()).arg("-q");
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut child = command.spawn().unwrap();
    wait_for_a_result(&mut child, &out);
    signal(&child, "-HUP");
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert_eq!(results(&out).len(), 42);
}

/// Until the first result is there.
#[cfg(unix)]
fn wait_for_a_result(child: &mut Child, output: &Path) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while fs::metadata(output).map_or(0, |metadata| metadata.len()) == 0 {
        assert!(Instant::now() < deadline, "no result");
        assert!(child.try_wait().unwrap().is_none(), "ended early");
        sleep(Duration::from_millis(2));
    }
}
