//! A policy as a file: `plan --emit` writes it, `run --plan` reads it.

use super::JobError;
use super::whole_file::write_whole;
use forebay_planner::{Policy, Split, Tier};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// What the file says it is.
const FORMAT: &str = "forebay-policy-1";

/// Bytes of a policy file at most: one letter for each 4 MiB of weights, and some words.
const BYTES_MAX: u64 = 16 << 20;

/// Most of anything in it that is counted, and most bytes of a ring: sums of what is hostile must not overflow.
const COUNT_MAX: usize = 1 << 24;
const RING_BYTES_MAX: u64 = 1 << 48;

/// A policy and the model it was made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFile {
    /// Fingerprint of the model.
    pub model: String,
    /// What was decided.
    pub policy: Policy,
}

/// The file's fields. Homes are letters: G (device memory), R (RAM), D (disk).
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    format: String,
    model: String,
    batch: usize,
    micro_batch: usize,
    prefill_chunk: usize,
    /// Written before there were draft trees, always 1.
    #[serde(default, rename = "rows_per_sequence", skip_serializing)]
    _rows_per_sequence: Option<usize>,
    /// Files of that time lack both.
    #[serde(default)]
    tree_budget: usize,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    draft: String,
    pages: usize,
    kv_format: String,
    /// Home of each layer's cache.
    kv_homes: String,
    window_pages: usize,
    host_attention: bool,
    activations: String,
    ring_device_bytes: u64,
    ring_ram_bytes: u64,
    /// Home of each segment of each matrix, in the order of a pass.
    weights: Vec<String>,
}

fn letter(tier: Tier) -> char {
    match tier {
        Tier::Device => 'G',
        Tier::Ram => 'R',
        Tier::Disk => 'D',
    }
}

fn letters(tiers: &[Tier]) -> String {
    tiers.iter().copied().map(letter).collect()
}

fn tiers(text: &str, field: &str) -> Result<Vec<Tier>, String> {
    let tier = |letter| match letter {
        'G' => Ok(Tier::Device),
        'R' => Ok(Tier::Ram),
        'D' => Ok(Tier::Disk),
        other => Err(format!("{field}: `{other}` is no home; there are G, R and D")),
    };
    text.chars().map(tier).collect()
}

impl PolicyFile {
    /// Writes it, whole or not at all.
    pub fn store(&self, path: &Path) -> Result<(), JobError> {
        let p = &self.policy;
        let text = Text {
            format: FORMAT.to_string(),
            model: self.model.clone(),
            batch: p.batch,
            micro_batch: p.micro_batch,
            prefill_chunk: p.prefill_chunk,
            _rows_per_sequence: None,
            tree_budget: p.tree_budget,
            draft: letters(p.draft.as_slice()),
            pages: p.pages,
            kv_format: p.kv_format.clone(),
            kv_homes: letters(&p.kv_homes),
            window_pages: p.window_pages,
            host_attention: p.host_attention,
            activations: letters(&[p.activations]),
            ring_device_bytes: p.ring.device,
            ring_ram_bytes: p.ring.ram,
            weights: p.homes.iter().map(|homes| letters(homes)).collect(),
        };
        let json = serde_json::to_string_pretty(&text).expect("plain data becomes JSON") + "\n";
        write_whole(path, json.as_bytes()).map_err(|source| JobError::write(path, source))
    }

    /// Reads one. Bytes by tier are not in it: they follow from the homes.
    ///
    /// # Errors
    /// A text that names the file and the field.
    pub fn load(path: &Path) -> Result<PolicyFile, String> {
        let name = path.display();
        let mut json = String::new();
        let read = File::open(path).and_then(|f| f.take(BYTES_MAX + 1).read_to_string(&mut json));
        read.map_err(|error| format!("{name}: cannot read the policy: {error}"))?;
        if json.len() as u64 > BYTES_MAX {
            return Err(format!("{name}: more than {BYTES_MAX} bytes; not a policy file"));
        }
        let text: Text = serde_json::from_str(&json)
            .map_err(|error| format!("{name}: not a policy of `forebay plan --emit`: {error}"))?;
        PolicyFile::of(text).map_err(|error| format!("{name}: {error}"))
    }

    fn of(text: Text) -> Result<PolicyFile, String> {
        if text.format != FORMAT {
            let found = text.format.chars().take(40).collect::<String>();
            return Err(format!("format: expected {FORMAT}, found {found}; emit the plan again"));
        }
        for (field, count) in [
            ("batch", text.batch),
            ("micro_batch", text.micro_batch),
            ("prefill_chunk", text.prefill_chunk),
            ("tree_budget", text.tree_budget),
            ("pages", text.pages),
            ("window_pages", text.window_pages),
        ] {
            if count > COUNT_MAX {
                return Err(format!(
                    "{field}: {count} is more than {COUNT_MAX}; emit the plan again"
                ));
            }
        }
        let rings = [text.ring_device_bytes, text.ring_ram_bytes];
        if let Some(bytes) = rings.into_iter().find(|bytes| *bytes > RING_BYTES_MAX) {
            return Err(format!("ring: {bytes} bytes are too many; emit the plan again"));
        }
        let homes = text.weights.iter().map(|homes| tiers(homes, "weights"));
        let [activations] = tiers(&text.activations, "activations")?[..] else {
            return Err("activations: expected one letter".to_string());
        };
        let draft = tiers(&text.draft, "draft")?;
        if draft.len() > 1 {
            return Err("draft: expected one letter".to_string());
        }
        let ring = Split { device: text.ring_device_bytes, ram: text.ring_ram_bytes, disk: 0 };
        let policy = Policy {
            batch: text.batch,
            micro_batch: text.micro_batch,
            prefill_chunk: text.prefill_chunk,
            tree_budget: text.tree_budget,
            draft: draft.first().copied(),
            homes: homes.collect::<Result<_, _>>()?,
            weights: Split::default(),
            pages: text.pages,
            kv_format: text.kv_format,
            kv_homes: tiers(&text.kv_homes, "kv_homes")?,
            kv: Split::default(),
            window_pages: text.window_pages,
            host_attention: text.host_attention,
            activations,
            ring,
        };
        Ok(PolicyFile { model: text.model, policy })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> PolicyFile {
        let policy = Policy {
            batch: 8,
            micro_batch: 4,
            prefill_chunk: 64,
            tree_budget: 64,
            draft: Some(Tier::Ram),
            homes: vec![vec![Tier::Device, Tier::Ram], vec![Tier::Disk]],
            weights: Split::default(),
            pages: 100,
            kv_format: "f16".into(),
            kv_homes: vec![Tier::Ram, Tier::Disk],
            kv: Split::default(),
            window_pages: 10,
            host_attention: false,
            activations: Tier::Device,
            ring: Split { device: 5, ram: 6, disk: 0 },
        };
        PolicyFile { model: "abc".into(), policy }
    }

    #[test]
    fn a_policy_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.json");
        file().store(&path).unwrap();
        assert_eq!(PolicyFile::load(&path), Ok(file()));
    }

    #[test]
    fn a_policy_of_before_there_were_trees_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.json");
        let mut plain = file();
        (plain.policy.tree_budget, plain.policy.draft) = (0, None);
        plain.store(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let before = text.replace("\"tree_budget\": 0", "\"rows_per_sequence\": 1");
        assert_ne!(text, before);
        std::fs::write(&path, before).unwrap();
        assert_eq!(PolicyFile::load(&path), Ok(plain));
    }

    #[test]
    fn other_files_are_refused_by_name_and_field() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.json");
        file().store(&path).unwrap();
        let good = std::fs::read_to_string(&path).unwrap();
        for (from, to, part) in [
            ("\"GR\"", "\"GX\"", "weights: `X` is no home"),
            ("forebay-policy-1", "forebay-policy-9", "format: expected"),
            ("\"batch\": 8", "\"batch\": -8", "invalid value"),
            ("\"batch\"", "\"botch\"", "botch"),
            (
                "\"tree_budget\": 64",
                "\"tree_budget\": 18446744073709551615",
                "tree_budget: 184467440737",
            ),
            ("\"pages\": 100", "\"pages\": 99999999999", "pages: 99999999999 is more than"),
            (
                "\"ring_ram_bytes\": 6",
                "\"ring_ram_bytes\": 999999999999999",
                "ring: 999999999999999",
            ),
        ] {
            std::fs::write(&path, good.replacen(from, to, 1)).unwrap();
            let error = PolicyFile::load(&path).unwrap_err();
            assert!(error.contains("policy.json") && error.contains(part), "{error}");
        }
    }
}
