//! Hardware profiles as JSON: what `calibrate` writes, what is cached, what users bring for other machines.

use super::JobError;
use super::profile_text::ProfileText;
use super::whole_file::write_whole;
use forebay_planner::HardwareProfile;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Version of the format.
const FORMAT: u64 = 1;
/// Longest file that is read.
const BYTES_MAX: u64 = 1 << 20;

/// A profile and where it comes from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProfileFile {
    /// What the planner reads.
    pub profile: HardwareProfile,
    /// What it holds for: device, driver, disk, program. A cached profile is used only where all of it
    /// is as it was.
    pub machine: Map<String, Value>,
    /// Anything for people.
    pub note: Option<String>,
    /// Further figures, which nothing reads.
    pub details: Map<String, Value>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    forebay_profile: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    #[serde(default)]
    machine: Map<String, Value>,
    profile: ProfileText,
    #[serde(default)]
    details: Map<String, Value>,
}

impl ProfileFile {
    /// Reads and checks a file: sizes are bounded, and every figure is in its range.
    ///
    /// # Errors
    /// [`JobError::Input`] if the file cannot be read, [`JobError::Profile`] if it is no profile; the
    /// message names the field.
    pub fn load(path: &Path) -> Result<ProfileFile, JobError> {
        let name = || path.display().to_string();
        let unreadable = |source| JobError::Input { path: name(), source };
        let bad = |reason: String| JobError::Profile { path: name(), reason };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(unreadable)?;
        file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > BYTES_MAX {
            return Err(bad(format!("it has more than {BYTES_MAX} bytes")));
        }
        ProfileFile::parse(&bytes).map_err(bad)
    }

    fn parse(bytes: &[u8]) -> Result<ProfileFile, String> {
        let text = |error: serde_json::Error| error.to_string();
        // The version comes first: another one may have other fields.
        let value: Value = serde_json::from_slice(bytes).map_err(text)?;
        match &value["forebay_profile"] {
            Value::Null => return Err("it has no field forebay_profile".to_string()),
            version if *version != FORMAT => {
                let version = super::fields::preview_of(&version.to_string(), 40);
                return Err(format!("forebay_profile is {version}, and {FORMAT} is understood"));
            }
            _ => {}
        }
        let text: FileText = serde_json::from_slice(bytes).map_err(text)?;
        text.profile.check()?;
        let profile = text.profile.into();
        Ok(ProfileFile { profile, machine: text.machine, note: text.note, details: text.details })
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let text = FileText {
            forebay_profile: FORMAT,
            note: self.note.clone(),
            machine: self.machine.clone(),
            profile: ProfileText::from(&self.profile),
            details: self.details.clone(),
        };
        serde_json::to_string_pretty(&text).expect("plain data becomes JSON") + "\n"
    }

    /// Writes it, whole or not at all.
    pub fn store(&self, path: &Path) -> Result<(), JobError> {
        write_whole(path, self.text().as_bytes()).map_err(|source| JobError::write(path, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_planner::{AttentionRate, DeviceRates, DiskRates, LinearRate};
    use serde_json::json;

    fn sample() -> ProfileFile {
        let device = DeviceRates {
            linear: vec![LinearRate {
                dtype: "Q4_K".to_string(),
                points: vec![(1, 1.5e-11), (8, 1.6e-11)],
            }],
            attention: vec![AttentionRate {
                format: "f16".to_string(),
                stream_seconds: 3e-11,
                kv_element_seconds: 1e-10,
                product_seconds: 0.0,
            }],
            elementwise_seconds: 1e-10,
            logit_seconds: 2e-9,
            greedy_seconds: 1e-9,
            embed_seconds: 3e-6,
            call_seconds: 1e-6,
            run_seconds: 5e-6,
            pass_seconds: 1e-5,
        };
        let profile = HardwareProfile {
            host: DeviceRates { linear: Vec::new(), ..device.clone() },
            device,
            shares_ram: false,
            ram_bytes_per_sec: 1e10,
            upload_bytes_per_sec: 1.2e10,
            download_bytes_per_sec: 1.1e10,
            copies_by_itself: true,
            upload_overlap: 0.9,
            disk: DiskRates {
                read_bytes_per_sec: 2e9,
                write_bytes_per_sec: 1e9,
                queue_depth: 4,
                read_bytes: 4 << 20,
                direct: true,
                overlap: 0.8,
            },
        };
        let machine = json!({"device": "x", "threads": 2}).as_object().cloned().unwrap();
        let note = Some("a note".to_string());
        ProfileFile { profile, machine, note, details: Map::new() }
    }

    #[test]
    fn profiles_survive_a_file_to_the_last_bit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("profile.json");
        let mut file = sample();
        file.store(&path).unwrap();
        assert_eq!(ProfileFile::load(&path).unwrap(), file);
        file.profile.host = file.profile.device.clone();
        file.store(&path).unwrap();
        assert!(!file.text().contains("host"), "the same rates are written once");
        assert_eq!(ProfileFile::load(&path).unwrap(), file);
    }

    /// The sample with one value replaced, as text.
    fn with(pointer: &str, value: Value) -> String {
        let mut text: Value = serde_json::from_str(&sample().text()).unwrap();
        *text.pointer_mut(pointer).unwrap() = value;
        text.to_string()
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (pointer, value, message) in [
            ("/forebay_profile", json!(2), "forebay_profile is 2, and 1 is understood"),
            (
                "/profile/disk/read_bytes_per_sec",
                json!(0),
                "disk.read_bytes_per_sec: expected bytes per second from 1 to 1e15, got 0.0",
            ),
            ("/profile/disk/write_bytes_per_sec", json!(1e-300), "got 1e-300"),
            ("/profile/ram_bytes_per_sec", json!(1e300), "got 1e300"),
            ("/profile/device/pass_seconds", json!(1e4), "expected seconds from 0 to 1000, got"),
            ("/profile/device/linear/0/points/0/1", json!(1e-300), "seconds from 1e-18 to 1000"),
            ("/profile/upload_overlap", json!(1.5), "upload_overlap: expected a number from 0"),
            ("/profile/upload_bytes_per_sec", json!(0), "upload_bytes_per_sec: expected"),
            (
                "/profile/device/linear",
                json!([]),
                "entries of device.linear: expected 1 to 64, got 0",
            ),
            (
                "/profile/device/linear/0/points",
                json!([[8, 1e-11], [8, 1e-11]]),
                "device.linear[0].points[1]: expected more rows than 8, got 8",
            ),
            ("/profile/device/linear/0/points/0/1", json!(-1), "points[0]: expected seconds from"),
            ("/profile/host/call_seconds", json!(-1e-9), "host.call_seconds: expected"),
            ("/profile/disk/queue_depth", json!(0), "disk.queue_depth: expected 1 to 1024, got 0"),
            ("/profile/device/attention/0/format", json!(""), "format: expected 1 to 64 bytes"),
            ("/profile/ram_bytes_per_sec", json!("fast"), "invalid type: string"),
        ] {
            let error = ProfileFile::parse(with(pointer, value).as_bytes()).unwrap_err();
            assert!(error.contains(message), "{pointer}: {error}");
        }
        let parse = |text: &str| ProfileFile::parse(text.as_bytes()).unwrap_err();
        let text = sample().text();
        assert!(parse(&text.replace("\"overlap\"", "\"overlop\"")).contains("overlop"));
        assert!(parse(&text.replace("0.9", "1e999")).contains("out of range"));
        assert!(parse("{}").contains("no field forebay_profile"));
        assert!(parse(&text[..text.len() / 2]).contains("EOF"));
        assert!(parse(&"[".repeat(10_000)).contains("recursion limit"));
    }

    #[test]
    fn long_and_missing_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("profile.json");
        let error = ProfileFile::load(&path).unwrap_err().to_string();
        assert!(error.contains("cannot read") && error.contains("profile.json"), "{error}");
        std::fs::write(&path, vec![b' '; BYTES_MAX as usize + 1]).unwrap();
        let error = ProfileFile::load(&path).unwrap_err();
        assert!(error.to_string().contains("more than 1048576 bytes"), "{error}");
        assert!(error.hint().unwrap().contains("calibrate"));
    }

    #[test]
    fn the_examples_are_profiles() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/profiles");
        let mut seen = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let file = ProfileFile::load(&entry.unwrap().path()).unwrap();
            assert!(file.note.unwrap().contains("not measured"), "an example says what it is");
            seen += 1;
        }
        assert!(seen > 0);
    }
}
