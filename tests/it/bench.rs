//! `forebay bench` from the command line.

use crate::support::fixture;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// Exit code, standard output and standard error of `forebay bench` on a tiny model.
fn bench(cache: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.args(["bench", "-m"]).arg(fixture("fixtures/tiny/llama/model.gguf"));
    command.args(["--device", "cpu", "--threads", "1", "-r", "2"]).args(arguments);
    let output = command.env("XDG_CACHE_HOME", cache).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

#[test]
fn every_combination_is_measured_and_told_in_each_format() {
    let dir = tempfile::tempdir().unwrap();
    let (code, out, err) =
        bench(dir.path(), &["-p", "0,8", "-n", "0,4", "-b", "1-3+2", "-o", "json"]);
    assert_eq!(code, 0, "{err}");
    let rows: Vec<Value> = serde_json::from_str(&out).unwrap();
    let told = |key: &str| rows.iter().map(|row| row[key].as_u64().unwrap()).collect::<Vec<_>>();
    // Neither prompt nor output is no job.
    assert_eq!(told("pp"), [0, 0, 8, 8, 8, 8], "{err}");
    assert_eq!(told("tg"), [4, 4, 0, 0, 4, 4]);
    assert_eq!(told("pl"), [1, 3, 1, 3, 1, 3]);
    assert_eq!(told("n_kv"), [4, 12, 8, 24, 12, 36]);
    assert!(err.contains("6/6: pp8 tg4 b3"), "{err}");
    for row in &rows {
        let (count, speed) = (row["n_kv"].as_f64().unwrap(), row["speed"].as_f64().unwrap());
        let samples = row["samples_ns"].as_array().unwrap();
        assert_eq!(samples.len(), 2);
        let rates: Vec<f64> = samples.iter().map(|ns| count * 1e9 / ns.as_f64().unwrap()).collect();
        let mean = rates.iter().sum::<f64>() / 2.0;
        assert!((speed / mean - 1.0).abs() < 1e-3, "{speed} {mean}");
        assert!(row["predicted_seconds"].as_f64().unwrap() > 0.0);
        let (output, requests) = (row["tg"].as_u64().unwrap(), row["pl"].as_u64().unwrap());
        assert!(row["passes"].as_u64().unwrap() > output, "{row}");
        assert!(row["batch"].as_u64().unwrap() <= requests);
    }
    let (code, out, _) = bench(dir.path(), &["-p", "8", "-n", "4", "-o", "csv", "-q"]);
    let mut reader = csv::Reader::from_reader(out.as_bytes());
    let keys: Vec<String> = reader.headers().unwrap().iter().map(str::to_string).collect();
    let values = reader.records().next().unwrap().unwrap();
    assert_eq!(keys, rows[0].as_object().unwrap().keys().cloned().collect::<Vec<_>>());
    assert!(
        code == 0 && values.iter().zip(&keys).any(|(value, key)| key == "n_gen" && value == "4")
    );
    let (code, out, _) = bench(dir.path(), &["-p", "8", "-n", "4", "-b", "2", "-o", "jsonl", "-q"]);
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(code == 0 && lines.len() == 1 && lines[0]["n_kv"] == 24, "{out}");
    let (code, out, _) =
        bench(dir.path(), &["-p", "8", "-n", "4", "--draft", "lookup", "--speculate", "4", "-q"]);
    assert!(code == 0 && out.contains("| PP | TG |") && out.contains("4 ("), "{out}");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (arguments, code, said) in [
        (&["-p", "0", "-n", "0"][..], 2, "neither prompts nor output"),
        (&["-b", "0"], 2, "-b 0"),
        (&["-p", "8-4"], 2, "first number is larger"),
        (&["-p", "1-1000", "-n", "1-2"], 2, "more than 1000 combinations"),
        (&["-p", "8", "-n", "100", "--max-model-len", "64"], 2, "pp8 tg100 b1 takes 109 positions"),
        (&["-p", "8", "-n", "4", "--ram", "1KiB"], 4, "forebay: error"),
    ] {
        let (got, out, err) = bench(dir.path(), arguments);
        assert!(got == code && err.contains(said) && out.is_empty(), "{arguments:?}: {got} {err}");
    }
}
