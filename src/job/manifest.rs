//! The file beside an output that says what its answers depend on.

use super::JobError;
use super::whole_file::write_whole;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

const FORMAT: u64 = 1;
/// Longest manifest that is read.
const BYTES_MAX: u64 = 1 << 20;

/// What answers depend on, and notes for people.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifest {
    answers: Map<String, Value>,
    notes: Map<String, Value>,
}

impl Manifest {
    /// Says that answers depend on `key`; a run resumes only where all of these are equal.
    pub fn depends_on(&mut self, key: &str, value: impl Into<Value>) {
        self.answers.insert(key.to_string(), value.into());
    }

    /// Adds a note that nothing is held to.
    pub fn note(&mut self, key: &str, value: impl Into<Value>) {
        self.notes.insert(key.to_string(), value.into());
    }

    /// What the answers in `output` depend on under `key`, if there are any and its manifest says.
    pub fn recorded(output: &Path, key: &str) -> Option<Value> {
        let output = std::fs::canonicalize(output).ok()?;
        let results = std::fs::metadata(&output).ok()?;
        let manifest = Manifest::load(&Manifest::path_beside(&output)).ok()??;
        manifest.answers.get(key).filter(|_| results.len() > 0).cloned()
    }

    /// Where the manifest of `output` is.
    pub fn path_beside(output: &Path) -> PathBuf {
        let mut name = output.as_os_str().to_owned();
        name.push(".manifest.json");
        PathBuf::from(name)
    }

    /// Each dependency in which the job of `self` (there) and of `now` (here) differ.
    pub(super) fn differences(&self, now: &Manifest) -> Vec<String> {
        let value = |map: &Map<String, Value>, key: &String| match map.get(key) {
            Some(value) => super::fields::preview_of(&value.to_string(), 80),
            None => "nothing".to_string(),
        };
        let only_there = self.answers.keys().filter(|&key| !now.answers.contains_key(key));
        let keys = now.answers.keys().chain(only_there);
        keys.filter(|&key| self.answers.get(key) != now.answers.get(key))
            .map(|key| {
                let (there, here) = (value(&self.answers, key), value(&now.answers, key));
                let remedy = match key.as_str() {
                    "kv_format" => " (give --kv-format as it was)",
                    "attention" => " (give --attention as it was)",
                    _ => "",
                };
                format!("{key} was {there} and is {here}{remedy}")
            })
            .collect()
    }

    /// The manifest in `path`; `None` if there is no such file, an error text if it is no manifest.
    pub(super) fn load(path: &Path) -> Result<Option<Manifest>, String> {
        let unreadable = |error: &dyn std::fmt::Display| {
            format!("its manifest {} can't be read: {error}", path.display())
        };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(&error)),
        };
        let mut bytes = Vec::new();
        file.take(BYTES_MAX).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| unreadable(&error))?;
        if value["forebay_manifest"] != FORMAT {
            return Err(unreadable(&"it is of another kind"));
        }
        let map = |key: &str| value[key].as_object().cloned().unwrap_or_default();
        Ok(Some(Manifest { answers: map("answers_depend_on"), notes: map("notes") }))
    }

    /// Writes it in one step.
    pub(super) fn store(&self, path: &Path) -> Result<(), JobError> {
        let value = json!({
            "forebay_manifest": FORMAT,
            "answers_depend_on": self.answers,
            "notes": self.notes,
        });
        let text = format!("{value:#}\n");
        write_whole(path, text.as_bytes()).map_err(|source| JobError::write(path, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_survive_a_file_and_name_differences() {
        let dir = tempfile::tempdir().unwrap();
        let path = Manifest::path_beside(&dir.path().join("out.jsonl"));
        assert!(path.ends_with("out.jsonl.manifest.json"));
        assert_eq!(Manifest::load(&path), Ok(None));
        let mut there = Manifest::default();
        there.depends_on("temperature", 0.7);
        there.depends_on("seed", 1);
        there.depends_on("old", "x");
        there.note("created", 5);
        there.store(&path).unwrap();
        assert_eq!(Manifest::load(&path), Ok(Some(there.clone())));
        let mut here = there.clone();
        here.note("created", 6);
        assert!(there.differences(&here).is_empty());
        here.depends_on("temperature", 1.0);
        here.answers.shift_remove("old");
        assert_eq!(
            there.differences(&here),
            ["temperature was 0.7 and is 1.0", "old was \"x\" and is nothing"]
        );
        std::fs::write(&path, "{\"a\":1}").unwrap();
        assert!(Manifest::load(&path).unwrap_err().contains("another kind"));
        std::fs::write(&path, "torn{").unwrap();
        assert!(Manifest::load(&path).unwrap_err().contains("can't be read"));
    }
}
