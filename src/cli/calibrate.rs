//! `forebay calibrate`.

use super::args::CalibrateArgs;
use super::exit::DONE;
use super::outputs::refuse_to_replace;
use super::profiles::Subject;
use super::{device, log, shell};
use crate::backend::DeviceInfo;
use crate::job::{ProfileFile, check_writable};
use crate::profile::{Calibration, Effort};
use crate::quant::DType;
use crate::store::ModelFiles;
use bytesize::ByteSize;
use comfy_table::{CellAlignment, Table, presets};
use forebay_planner::{DeviceRates, HardwareProfile, LinearRate};
use std::fmt::Write as _;

/// Measures this machine and shows what it found.
pub(super) fn calibrate(args: &CalibrateArgs, quiet: bool) -> anyhow::Result<u8> {
    args.output.as_deref().map_or(Ok(()), check_writable)?;
    let model = args.model.as_deref().map(ModelFiles::open).transpose()?;
    if let Some(path) = &args.output {
        let read = model.iter().flat_map(|model| model.paths()).map(|file| ("the model", file));
        refuse_to_replace("-o", path, read)?;
    }
    let mut device = device::open(&args.device, args.threads)?;
    let info = device.info().clone();
    let file = model.as_ref().map(|model| model.path());
    let mut subject = Subject::new(device.as_mut(), args.threads, args.disk_dir.as_deref(), file)?;
    if let Some(model) = file.filter(|model| model.is_file() && subject.file.is_none()) {
        let (model, folder) = (model.display(), subject.folder.display());
        tracing::warn!(
            "{model}: it is short, or not on the disk of {folder}, from which weights are streamed; a \
             scratch file there is read instead"
        );
    }
    let (effort, time) = match args.quick {
        true => (Effort::Quick, "ten seconds"),
        false => (Effort::Full, "a minute"),
    };
    if !quiet {
        let disk = subject.file.as_ref().unwrap_or(&subject.folder).display();
        log::say(&format!("forebay: measuring {} and the disk of {disk}, about {time}", info.name));
    }
    let (file, found) = subject.measure(effort, quiet)?;
    if let Some(path) = &args.output {
        file.store(path)?;
    }
    let text = if args.json { file.text() } else { text_of(&info, &file, &found) };
    shell::print(text.as_bytes())?;
    Ok(DONE)
}

fn text_of(info: &DeviceInfo, file: &ProfileFile, found: &Calibration) -> String {
    let profile = &file.profile;
    let mut text = format!("{} ({}, {})\n\n", info.name, info.kind, info.driver);
    text += &format!("{}\n\n", linear_table(&profile.device));
    text += &rates_of(profile);
    let host = (profile.host != profile.device).then(|| attention_of("host ", &profile.host));
    text += &host.unwrap_or_default();
    text += &format!("\n{}\n\n{}\n", transfer_table(found), read_table(found, profile));
    let disk = &profile.disk;
    let _ = writeln!(
        text,
        "* how weights are streamed: {} in a longer look; written at {}; {:.0} % of the shorter of \
         reading and computing is hidden\nmeasured in {:.0} s; equal calls took {:.0} % longer than \
         they can (what other programs did)",
        per_second(disk.read_bytes_per_sec),
        per_second(disk.write_bytes_per_sec),
        disk.overlap * 100.0,
        found.seconds,
        found.noise * 100.0
    );
    text
}

fn per_second(bytes: f64) -> String {
    format!("{}/s", ByteSize(bytes as u64).display().si())
}

fn table(header: Vec<String>, left: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    for column in table.column_iter_mut().skip(left) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Rows: storage types. Columns: rows of x.
fn linear_table(device: &DeviceRates) -> Table {
    let mut rows: Vec<usize> =
        device.linear.iter().flat_map(|rate| &rate.points).map(|&(rows, _)| rows).collect();
    rows.sort_unstable();
    rows.dedup();
    let mut header = vec!["GFLOP/s by rows".to_string(), "weights at 1".to_string()];
    header.extend(rows.iter().map(usize::to_string));
    let mut table = table(header, 1);
    for rate in &device.linear {
        let mut cells = vec![rate.dtype.clone(), streaming(rate)];
        cells.extend(rows.iter().map(|&rows| {
            let point = rate.points.iter().find(|point| point.0 == rows);
            let gflops = |&(rows, seconds): &(usize, f64)| 2e-9 * rows as f64 / seconds;
            point.map_or(String::new(), |point| format!("{:.0}", gflops(point)))
        }));
        table.add_row(cells);
    }
    table
}

/// Bytes of weights per second with one row.
fn streaming(rate: &LinearRate) -> String {
    let dtype = DType::ALL.into_iter().find(|dtype| dtype.to_string() == rate.dtype);
    dtype.map_or(String::new(), |dtype| {
        let bytes = dtype.block_bytes() as f64 / dtype.block_len() as f64;
        per_second(bytes / rate.seconds(1))
    })
}

fn rates_of(profile: &HardwareProfile) -> String {
    let device = &profile.device;
    let mut text = attention_of("", device);
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<20}{value}");
    };
    row("other", format!("{:.3} ns a number", device.elementwise_seconds * 1e9));
    let (all, greedy) = (device.logit_seconds * 1e9, device.greedy_seconds * 1e9);
    row("logits", format!("{all:.2} ns each, sampling included; {greedy:.2} at temperature 0"));
    row("embeddings", format!("{:.2} us a row", device.embed_seconds * 1e6));
    let [call, run, pass] = [device.call_seconds, device.run_seconds, device.pass_seconds];
    let [call, run, pass] = [call, run, pass].map(|seconds| seconds * 1e6);
    row("fixed", format!("{call:.2} us a call, {run:.2} us a run, {pass:.2} us a pass"));
    row("host memory", format!("{} copied", per_second(profile.ram_bytes_per_sec)));
    if !profile.shares_ram {
        let hidden = profile.upload_overlap * 100.0;
        row("uploads", format!("{hidden:.0} % of the shorter of copying and computing is hidden"));
    }
    text
}

fn attention_of(whose: &str, device: &DeviceRates) -> String {
    let mut text = String::new();
    for rate in &device.attention {
        let [stream, element, product] =
            [rate.stream_seconds, rate.kv_element_seconds, rate.product_seconds].map(|s| s * 1e9);
        let name = format!("{whose}attention {}", rate.format);
        let _ = writeln!(
            text,
            "{name:<20}{stream:.3} ns an element from memory, {element:.3} ns for each row that sees \
             it, {product:.4} ns a product"
        );
    }
    text
}

/// Rows: paths. Columns: bytes of a transfer.
fn transfer_table(found: &Calibration) -> Table {
    let mut sizes: Vec<usize> = found.transfers.iter().map(|rate| rate.bytes).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let mut header = vec!["device memory".to_string()];
    header.extend(sizes.iter().map(|&bytes| ByteSize(bytes as u64).display().iec().to_string()));
    let mut table = table(header, 1);
    let mut paths: Vec<String> = found.transfers.iter().map(|rate| rate.path.to_string()).collect();
    paths.dedup();
    for path in paths {
        let mut cells = vec![path.clone()];
        let of_path = found.transfers.iter().filter(|rate| rate.path.to_string() == path);
        cells.extend(of_path.map(|rate| per_second(rate.bytes_per_sec)));
        table.add_row(cells);
    }
    table
}

fn read_table(found: &Calibration, profile: &HardwareProfile) -> Table {
    let header = ["", "disk reads", "in flight", "of", "rate"].map(str::to_string);
    let mut table = table(header.into(), 2);
    let disk = &profile.disk;
    for rate in &found.reads {
        let taken = (rate.direct, rate.threads, rate.bytes as u64)
            == (disk.direct, disk.queue_depth, disk.read_bytes);
        table.add_row([
            if taken { "*" } else { "" }.to_string(),
            if rate.direct { "direct" } else { "buffered" }.to_string(),
            rate.threads.to_string(),
            ByteSize(rate.bytes as u64).display().iec().to_string(),
            per_second(rate.bytes_per_sec),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::DeviceKind;
    use crate::profile::{Path, ReadRate, TransferRate};

    #[test]
    fn figures_are_shown_in_units_that_people_compare() {
        let example =
            concat!(env!("CARGO_MANIFEST_DIR"), "/examples/profiles/pcie4-rtx4090-like.json");
        let mut file = ProfileFile::load(std::path::Path::new(example)).unwrap();
        file.profile.device.linear = vec![LinearRate {
            dtype: "Q8_0".to_string(),
            points: vec![(1, 1.0625e-9), (64, 0.64e-9)],
        }];
        file.profile.disk.direct = true;
        let disk = &file.profile.disk;
        let (threads, bytes) = (disk.queue_depth, disk.read_bytes as usize);
        let found = Calibration {
            transfers: vec![TransferRate { path: Path::Write, bytes: 4096, bytes_per_sec: 2e9 }],
            reads: vec![ReadRate { direct: true, threads, bytes, bytes_per_sec: 3e9 }],
            noise: 0.07,
            seconds: 9.0,
            ..Calibration::default()
        };
        let info = DeviceInfo {
            name: "card".to_string(),
            kind: DeviceKind::DiscreteGpu,
            driver: "x".to_string(),
            buffer_bytes_max: 0,
            memory_bytes: None,
        };
        let text = text_of(&info, &file, &found);
        let line = |start: &str| text.lines().find(|line| line.trim_start().starts_with(start));
        let linear: Vec<&str> = line("Q8_0").unwrap().split_whitespace().collect();
        assert_eq!(linear, ["Q8_0", "1.0", "GB/s", "2", "200"]);
        assert!(line("write").unwrap().contains("2.0 GB/s"), "{text}");
        assert!(line("* direct").is_some() || line("*").unwrap().contains("3.0 GB/s"), "{text}");
        assert!(line("measured in 9 s").unwrap().contains("7 % longer"), "{text}");
        assert!(line("host attention f16").is_some(), "{text}");
    }
}
