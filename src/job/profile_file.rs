//! Hardware profiles as JSON: what `calibrate` writes, what is cached, what users bring for other machines.

use super::JobError;
use super::whole_file::write_whole;
use forebay_planner::{AttentionRate, DeviceRates, DiskRates, HardwareProfile, LinearRate};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Version of the format.
const FORMAT: u64 = 1;
/// Longest file that is read.
const BYTES_MAX: u64 = 1 << 20;
/// Most storage types or cache formats, and points of one type.
const ENTRIES_MAX: usize = 64;
/// Longest name of a type.
const NAME_BYTES_MAX: usize = 64;

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

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ProfileText {
    device: DeviceText,
    /// Absent where the device is the processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host: Option<DeviceText>,
    shares_ram: bool,
    ram_bytes_per_sec: f64,
    upload_bytes_per_sec: f64,
    download_bytes_per_sec: f64,
    /// Files of before it was measured lack it: then devices did, where they could.
    #[serde(default = "yes")]
    copies_by_itself: bool,
    upload_overlap: f64,
    disk: DiskText,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct DeviceText {
    linear: Vec<LinearText>,
    attention: Vec<AttentionText>,
    elementwise_seconds: f64,
    logit_seconds: f64,
    /// As `logit_seconds` where it is left out.
    #[serde(default)]
    greedy_seconds: Option<f64>,
    embed_seconds: f64,
    call_seconds: f64,
    run_seconds: f64,
    pass_seconds: f64,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct LinearText {
    dtype: String,
    points: Vec<(usize, f64)>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct AttentionText {
    format: String,
    stream_seconds: f64,
    kv_element_seconds: f64,
    product_seconds: f64,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct DiskText {
    read_bytes_per_sec: f64,
    write_bytes_per_sec: f64,
    queue_depth: usize,
    read_bytes: u64,
    direct: bool,
    overlap: f64,
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
        check(&text.profile)?;
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

fn check(profile: &ProfileText) -> Result<(), String> {
    check_device("device", &profile.device, true)?;
    if let Some(host) = &profile.host {
        check_device("host", host, false)?;
    }
    rate("ram_bytes_per_sec", profile.ram_bytes_per_sec)?;
    for (name, value) in [
        ("upload_bytes_per_sec", profile.upload_bytes_per_sec),
        ("download_bytes_per_sec", profile.download_bytes_per_sec),
    ] {
        // Where memory is shared nothing is uploaded.
        if !(profile.shares_ram && value == 0.0) {
            rate(name, value)?;
        }
    }
    fraction("upload_overlap", profile.upload_overlap)?;
    let disk = &profile.disk;
    rate("disk.read_bytes_per_sec", disk.read_bytes_per_sec)?;
    rate("disk.write_bytes_per_sec", disk.write_bytes_per_sec)?;
    fraction("disk.overlap", disk.overlap)?;
    integer("disk.queue_depth", disk.queue_depth as u64, 1, 1024)?;
    integer("disk.read_bytes", disk.read_bytes, 512, 1 << 30)
}

/// `all` of a device must be there; of a host, attention.
fn check_device(name: &str, device: &DeviceText, all: bool) -> Result<(), String> {
    let least = usize::from(all);
    count(&format!("{name}.linear"), device.linear.len(), least)?;
    count(&format!("{name}.attention"), device.attention.len(), 1)?;
    for (index, rate) in device.linear.iter().enumerate() {
        let name = format!("{name}.linear[{index}]");
        label(&format!("{name}.dtype"), &rate.dtype)?;
        count(&format!("{name}.points"), rate.points.len(), 1)?;
        let mut before = 0;
        for (at, &(rows, value)) in rate.points.iter().enumerate() {
            let name = format!("{name}.points[{at}]");
            if rows <= before {
                return Err(format!("{name}: expected more rows than {before}, got {rows}"));
            }
            before = rows;
            within(&name, value, (1e-18, 1e3), "seconds from 1e-18 to 1000")?;
        }
    }
    for (index, rate) in device.attention.iter().enumerate() {
        let name = format!("{name}.attention[{index}]");
        label(&format!("{name}.format"), &rate.format)?;
        seconds(&format!("{name}.stream_seconds"), rate.stream_seconds)?;
        seconds(&format!("{name}.kv_element_seconds"), rate.kv_element_seconds)?;
        seconds(&format!("{name}.product_seconds"), rate.product_seconds)?;
    }
    for (field, value) in [
        ("elementwise_seconds", device.elementwise_seconds),
        ("logit_seconds", device.logit_seconds),
        ("greedy_seconds", device.greedy_seconds.unwrap_or_default()),
        ("embed_seconds", device.embed_seconds),
        ("call_seconds", device.call_seconds),
        ("run_seconds", device.run_seconds),
        ("pass_seconds", device.pass_seconds),
    ] {
        seconds(&format!("{name}.{field}"), value)?;
    }
    Ok(())
}

fn count(name: &str, count: usize, least: usize) -> Result<(), String> {
    integer(&format!("entries of {name}"), count as u64, least as u64, ENTRIES_MAX as u64)
}

fn label(name: &str, text: &str) -> Result<(), String> {
    if text.is_empty() || text.len() > NAME_BYTES_MAX {
        return Err(format!("{name}: expected 1 to {NAME_BYTES_MAX} bytes, got {}", text.len()));
    }
    Ok(())
}

fn integer(name: &str, value: u64, min: u64, max: u64) -> Result<(), String> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(format!("{name}: expected {min} to {max}, got {value}"))
}

/// One that a machine can have: by others, what a job takes may be no number.
fn rate(name: &str, value: f64) -> Result<(), String> {
    within(name, value, (1.0, 1e15), "bytes per second from 1 to 1e15")
}

fn seconds(name: &str, value: f64) -> Result<(), String> {
    within(name, value, (0.0, 1e3), "seconds from 0 to 1000")
}

fn fraction(name: &str, value: f64) -> Result<(), String> {
    within(name, value, (0.0, 1.0), "a number from 0 to 1")
}

fn within(name: &str, value: f64, (min, max): (f64, f64), expected: &str) -> Result<(), String> {
    let good = (min..=max).contains(&value);
    if good { Ok(()) } else { Err(format!("{name}: expected {expected}, got {value:?}")) }
}

impl From<ProfileText> for HardwareProfile {
    fn from(text: ProfileText) -> HardwareProfile {
        let device = DeviceRates::from(text.device);
        let DiskText { read_bytes_per_sec, write_bytes_per_sec, .. } = text.disk;
        let DiskText { queue_depth, read_bytes, direct, overlap, .. } = text.disk;
        HardwareProfile {
            host: text.host.map_or_else(|| device.clone(), DeviceRates::from),
            device,
            shares_ram: text.shares_ram,
            ram_bytes_per_sec: text.ram_bytes_per_sec,
            upload_bytes_per_sec: text.upload_bytes_per_sec,
            download_bytes_per_sec: text.download_bytes_per_sec,
            copies_by_itself: text.copies_by_itself,
            upload_overlap: text.upload_overlap,
            disk: DiskRates {
                read_bytes_per_sec,
                write_bytes_per_sec,
                queue_depth,
                read_bytes,
                direct,
                overlap,
            },
        }
    }
}

impl From<&HardwareProfile> for ProfileText {
    fn from(profile: &HardwareProfile) -> ProfileText {
        let disk = &profile.disk;
        ProfileText {
            device: (&profile.device).into(),
            host: (profile.host != profile.device).then(|| (&profile.host).into()),
            shares_ram: profile.shares_ram,
            ram_bytes_per_sec: profile.ram_bytes_per_sec,
            upload_bytes_per_sec: profile.upload_bytes_per_sec,
            download_bytes_per_sec: profile.download_bytes_per_sec,
            copies_by_itself: profile.copies_by_itself,
            upload_overlap: profile.upload_overlap,
            disk: DiskText {
                read_bytes_per_sec: disk.read_bytes_per_sec,
                write_bytes_per_sec: disk.write_bytes_per_sec,
                queue_depth: disk.queue_depth,
                read_bytes: disk.read_bytes,
                direct: disk.direct,
                overlap: disk.overlap,
            },
        }
    }
}

impl From<DeviceText> for DeviceRates {
    fn from(text: DeviceText) -> DeviceRates {
        let linear = |t: LinearText| LinearRate { dtype: t.dtype, points: t.points };
        let attention = |t: AttentionText| AttentionRate {
            format: t.format,
            stream_seconds: t.stream_seconds,
            kv_element_seconds: t.kv_element_seconds,
            product_seconds: t.product_seconds,
        };
        DeviceRates {
            linear: text.linear.into_iter().map(linear).collect(),
            attention: text.attention.into_iter().map(attention).collect(),
            elementwise_seconds: text.elementwise_seconds,
            logit_seconds: text.logit_seconds,
            greedy_seconds: text.greedy_seconds.unwrap_or(text.logit_seconds),
            embed_seconds: text.embed_seconds,
            call_seconds: text.call_seconds,
            run_seconds: text.run_seconds,
            pass_seconds: text.pass_seconds,
        }
    }
}

impl From<&DeviceRates> for DeviceText {
    fn from(rates: &DeviceRates) -> DeviceText {
        let linear =
            |r: &LinearRate| LinearText { dtype: r.dtype.clone(), points: r.points.clone() };
        let attention = |r: &AttentionRate| AttentionText {
            format: r.format.clone(),
            stream_seconds: r.stream_seconds,
            kv_element_seconds: r.kv_element_seconds,
            product_seconds: r.product_seconds,
        };
        DeviceText {
            linear: rates.linear.iter().map(linear).collect(),
            attention: rates.attention.iter().map(attention).collect(),
            elementwise_seconds: rates.elementwise_seconds,
            logit_seconds: rates.logit_seconds,
            greedy_seconds: Some(rates.greedy_seconds),
            embed_seconds: rates.embed_seconds,
            call_seconds: rates.call_seconds,
            run_seconds: rates.run_seconds,
            pass_seconds: rates.pass_seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
