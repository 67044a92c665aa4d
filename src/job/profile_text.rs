//! How a hardware profile is written in JSON, and what of it is accepted.

use forebay_planner::{AttentionRate, DeviceRates, DiskRates, HardwareProfile, LinearRate};
use serde::{Deserialize, Serialize};

/// Most storage types or cache formats, and points of one type.
const ENTRIES_MAX: usize = 64;
/// Longest name of a type.
const NAME_BYTES_MAX: usize = 64;

/// A profile.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProfileText {
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

impl ProfileText {
    /// Sizes are bounded, and every figure is in its range: else a text that names the field.
    pub(super) fn check(&self) -> Result<(), String> {
        check_device("device", &self.device, true)?;
        if let Some(host) = &self.host {
            check_device("host", host, false)?;
        }
        rate("ram_bytes_per_sec", self.ram_bytes_per_sec)?;
        for (name, value) in [
            ("upload_bytes_per_sec", self.upload_bytes_per_sec),
            ("download_bytes_per_sec", self.download_bytes_per_sec),
        ] {
            // Where memory is shared nothing is uploaded.
            if !(self.shares_ram && value == 0.0) {
                rate(name, value)?;
            }
        }
        fraction("upload_overlap", self.upload_overlap)?;
        let disk = &self.disk;
        rate("disk.read_bytes_per_sec", disk.read_bytes_per_sec)?;
        rate("disk.write_bytes_per_sec", disk.write_bytes_per_sec)?;
        fraction("disk.overlap", disk.overlap)?;
        integer("disk.queue_depth", disk.queue_depth as u64, 1, 1024)?;
        integer("disk.read_bytes", disk.read_bytes, 512, 1 << 30)
    }
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
