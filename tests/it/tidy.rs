//! House rules that can be checked by reading the tree. Each failure names the file and the rule.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Which rooms of `src/` a room may import. A room that is missing here may not exist.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("quant", &[]),
    ("tokenizer", &[]),
    ("sample", &[]),
    ("speculate", &[]),
    ("kernel", &["quant"]),
    ("model", &["kernel"]),
    ("store", &["model", "quant", "tokenizer"]),
    ("synth", &["model", "quant", "store", "tokenizer"]),
    ("backend", &["kernel", "quant"]),
    ("schedule", &["kernel", "model", "quant"]),
    ("forward", &["backend", "kernel", "model"]),
    ("exec", &["backend", "forward", "kernel", "model", "quant", "schedule", "store"]),
    ("generate", &["exec", "kernel", "sample", "schedule", "speculate", "tokenizer"]),
    ("profile", &["backend", "forward", "kernel", "model", "quant", "sample", "store"]),
    ("job", &["generate", "sample", "tokenizer"]),
    (
        "cli",
        &[
            "backend",
            "exec",
            "generate",
            "job",
            "kernel",
            "model",
            "profile",
            "quant",
            "sample",
            "schedule",
            "store",
            "synth",
            "tokenizer",
        ],
    ),
];

/// Where each dependency is named: path prefixes below the root.
const HOMES: &[(&str, &[&str])] = &[
    ("ash", &["src/backend/gpu/"]),
    ("wgpu", &["src/backend/gpu/"]),
    ("pollster", &["src/backend/gpu/"]),
    ("rayon", &["src/backend/cpu/", "src/sample/"]),
    ("half", &["src/quant/", "src/backend/"]),
    ("rustix", &["src/store/", "src/backend/cpu/", "src/profile/"]),
    ("memmap2", &["src/store/"]),
    ("safetensors", &["src/store/"]),
    ("tokenizers", &["src/tokenizer/"]),
    ("minijinja", &["src/tokenizer/"]),
    ("minijinja_contrib", &["src/tokenizer/"]),
    ("clap", &["src/cli/"]),
    ("clap_complete", &["src/cli/"]),
    ("clap_mangen", &["src/cli/"]),
    ("comfy_table", &["src/cli/"]),
    ("indicatif", &["src/cli/", "src/job/"]),
    ("ctrlc", &["src/cli/"]),
    ("libc", &["src/cli/"]),
    ("crossbeam", &["src/exec/"]),
    ("good_lp", &["planner/src/"]),
];

const RUST_LINES_MAX: usize = 600;
const MOD_LINES_MAX: usize = 100;
const SHADER_LINES_MAX: usize = 200;
const FRAGMENT_LINES_MAX: usize = 80;
const FUNCTION_LINES_MAX: usize = 70;
/// Code is held to 100 columns by rustfmt; comments, tables and string literals may be wider.
const COLUMNS_MAX: usize = 120;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files below `folder` with this extension, as (path relative to the root, text).
fn files(folder: &str, extension: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path: PathBuf = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// The lines before a file's unit tests, comments left out.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .take_while(|line| line.trim() != "#[cfg(test)]")
        .filter(|line| !line.trim_start().starts_with("//"))
}

/// Rooms named after `crate::` in a line.
fn rooms_in(line: &str) -> Vec<&str> {
    let names = line.split("crate::").skip(1);
    names
        .map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap())
        .collect()
}

fn report(broken: Vec<String>) {
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn rooms_import_only_what_the_table_allows() {
    let table: BTreeMap<_, _> = MAY_IMPORT.iter().copied().collect();
    let mut broken = Vec::new();
    for (name, text) in files("src", "rs") {
        let mut parts = name.split('/').skip(1);
        let room = parts.next().unwrap();
        if room.ends_with(".rs") {
            continue;
        }
        let Some(allowed) = table.get(room) else {
            broken.push(format!("{name}: room `{room}` is not in the import table"));
            continue;
        };
        if name.ends_with("/tests.rs") || name.contains("/tests/") {
            continue;
        }
        for import in code(&text).flat_map(rooms_in) {
            if import != room && !allowed.contains(&import) {
                broken.push(format!("{name}: `{room}` may not import `{import}`"));
            }
        }
        let device = parts.next().unwrap_or_default();
        for other in ["cpu", "gpu", "reference"].into_iter().filter(|&o| o != device) {
            let foreign = format!("backend::{other}");
            if room == "backend" && code(&text).any(|line| line.contains(&foreign)) {
                broken.push(format!("{name}: devices do not import each other"));
            }
        }
    }
    report(broken);
}

#[test]
fn the_import_table_has_no_cycle() {
    let floors: Vec<&str> = MAY_IMPORT.iter().map(|(room, _)| *room).collect();
    for (floor, (room, imports)) in MAY_IMPORT.iter().enumerate() {
        for import in *imports {
            assert!(floors[..floor].contains(import), "`{room}` imports `{import}` from above");
        }
    }
}

#[test]
fn each_dependency_has_one_home() {
    let mut broken = Vec::new();
    for (name, text) in files("src", "rs").into_iter().chain(files("planner/src", "rs")) {
        for (dependency, homes) in HOMES {
            let used = code(&text).any(|line| {
                let line = line.trim_start();
                let path = format!("{dependency}::");
                let inside = [" ", "(", "&", "<"].map(|before| format!("{before}{path}"));
                line.starts_with(&path) || inside.iter().any(|path| line.contains(path))
            });
            if used && !homes.iter().any(|home| name.starts_with(home)) {
                broken.push(format!("{name}: `{dependency}` lives in {homes:?}"));
            }
        }
    }
    report(broken);
}

#[test]
fn files_and_functions_stay_small() {
    let mut broken = Vec::new();
    let rust = ["src", "planner/src", "benches", "tests"].iter().flat_map(|f| files(f, "rs"));
    for (name, text) in rust {
        let most = if name.ends_with("/mod.rs") { MOD_LINES_MAX } else { RUST_LINES_MAX };
        let lines = text.lines().count();
        if lines > most {
            broken.push(format!("{name}: {lines} lines, at most {most}"));
        }
        broken.extend(long_lines(&name, &text));
        broken.extend(long_functions(&name, &text));
    }
    for (name, text) in files("shaders", "wgsl") {
        let shared = name.starts_with("shaders/shared/");
        let most = if shared { FRAGMENT_LINES_MAX } else { SHADER_LINES_MAX };
        let lines = text.lines().count();
        if lines > most {
            broken.push(format!("{name}: {lines} lines, at most {most}"));
        }
        broken.extend(long_lines(&name, &text));
    }
    report(broken);
}

fn long_lines(name: &str, text: &str) -> Vec<String> {
    let long = text.lines().enumerate().filter(|(_, line)| line.chars().count() > COLUMNS_MAX);
    long.map(|(at, _)| format!("{name}:{}: wider than {COLUMNS_MAX} columns", at + 1)).collect()
}

/// Functions are found by rustfmt's layout: `fn` at some indent, `}` at the same indent.
fn long_functions(name: &str, text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    let mut open: Option<(usize, usize)> = None;
    for (at, line) in text.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let starts = line.trim_start().starts_with("fn ") || line.contains(" fn ");
        if starts && open.is_none() && !line.trim_end().ends_with(';') && !line.contains("//") {
            open = Some((at, indent));
        }
        if let Some((start, depth)) = open
            && line.trim_end() == format!("{}}}", " ".repeat(depth))
        {
            if at - start + 1 > FUNCTION_LINES_MAX {
                let lines = at - start + 1;
                broken.push(format!("{name}:{}: function of {lines} lines", start + 1));
            }
            open = None;
        }
    }
    broken
}

#[test]
fn rooms_introduce_themselves() {
    let mut broken = Vec::new();
    for (name, text) in files("src", "rs") {
        let doc = text.lines().take_while(|line| line.starts_with("//!")).count();
        let wanted = if name.ends_with("/mod.rs") && name.split('/').count() == 3 { 3 } else { 1 };
        if doc < wanted {
            broken.push(format!("{name}: {doc} lines of introduction, {wanted} wanted"));
        }
    }
    report(broken);
}

/// Each kernel call has a reference, a place on both fast devices, and a test that compares them.
#[test]
fn no_kernel_without_its_reference() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let calls = read("src/kernel/call.rs");
    let (_, calls) = calls.split_once("pub enum Call {").unwrap();
    let variants: Vec<&str> = calls
        .lines()
        .filter_map(|line| line.strip_prefix("    ")?.strip_suffix(" {"))
        .filter(|name| name.chars().all(char::is_alphanumeric))
        .collect();
    assert!(variants.len() >= 8, "{variants:?}");
    let mut broken = Vec::new();
    let places = ["src/backend/reference", "src/backend/cpu", "src/backend/gpu"];
    for name in variants {
        let call = format!("Call::{name} ");
        for place in places {
            if !files(place, "rs").iter().any(|(_, text)| text.contains(&call)) {
                broken.push(format!("{place}: no {call}"));
            }
        }
        if !read("tests/it/kernels.rs").contains(&call) {
            broken.push(format!("tests/it/kernels.rs: {call}is not compared with the reference"));
        }
    }
    report(broken);
}

#[test]
fn nothing_is_left_unfinished() {
    let marks = ["todo!(", "unimplemented!(", &["TO", "DO"].concat(), &["FIX", "ME"].concat()];
    let mut broken = Vec::new();
    for (name, text) in files("src", "rs").into_iter().chain(files("shaders", "wgsl")) {
        for (at, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                broken.push(format!("{name}:{}: unfinished: {}", at + 1, line.trim()));
            }
        }
    }
    report(broken);
}
