//! The order of measuring, and what it adds up to.

use super::attention::{Attention, FORMATS};
use super::disk::{Disk, DiskPlace, ReadRate};
use super::elementwise::Elementwise;
use super::error::ProfileError;
use super::fixed;
use super::host::{Embedding, Logits};
use super::linear::Linear;
use super::memory::{Memory, Path, TransferRate};
use super::meter::{Clock, Meter};
use super::samples::Effort;
use crate::backend::{Device, DeviceKind};
use crate::quant::DType;
use forebay_planner::{DeviceRates, HardwareProfile};
use std::time::Instant;

/// Last looks at the disk, alone and beside computing.
const CONFIRMATIONS: usize = 5;

/// How to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long it may take.
    pub effort: Effort,
    /// What counts as time of the device.
    pub clock: Clock,
}

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Calibration {
    /// What the planner reads.
    pub profile: HardwareProfile,
    /// Every path between host and device.
    pub transfers: Vec<TransferRate>,
    /// Every way to read the disk.
    pub reads: Vec<ReadRate>,
    /// Time that measuring took.
    pub seconds: f64,
}

/// Measures `device`, and the disk of `place`. `host` is the processor where `device` is another;
/// `say` hears what is being measured.
pub fn calibrate(
    device: &mut dyn Device,
    host: Option<&mut dyn Device>,
    place: &DiskPlace,
    settings: Settings,
    say: &mut dyn FnMut(&str),
) -> Result<Calibration, ProfileError> {
    let start = Instant::now();
    let Settings { effort, clock } = settings;
    let kind = device.info().kind;
    let shares_ram = kind != DeviceKind::DiscreteGpu && kind != DeviceKind::OtherGpu;
    say("writing to the disk");
    let mut disk = Disk::open(place, effort)?;
    let mut memory = Memory::new();
    let mut meter = Meter::new(device, clock)?;
    let mut rates = Rates::new(DType::ALL.to_vec(), effort);
    rates.fixed(&mut meter, say)?;
    for round in 0..effort.rounds_max() {
        if round > 0 && start.elapsed() > effort.rounds_end() {
            break;
        }
        rates.round(&mut meter, place, effort, say)?;
        say("memory");
        memory.round(&mut meter, effort)?;
        if !shares_ram {
            memory.overlap_round(&mut meter)?;
        }
        say("disk");
        disk.round(effort)?;
    }
    for _ in 0..CONFIRMATIONS {
        disk.confirm(&mut meter, effort)?;
    }
    let device = rates.rates(&meter);
    drop(meter);
    let host = match host {
        None => device.clone(),
        Some(host) => attention_of(host, settings, say)?,
    };
    let transfer = |path| if shares_ram { 0.0 } else { memory.rate(path) };
    let profile = HardwareProfile {
        device,
        host,
        shares_ram,
        ram_bytes_per_sec: memory.copy_rate(),
        upload_bytes_per_sec: transfer(Path::Write),
        download_bytes_per_sec: transfer(Path::Read),
        upload_overlap: memory.overlap(),
        disk: disk.profile(),
    };
    let (transfers, reads) = (memory.transfers(), disk.rates());
    Ok(Calibration { profile, transfers, reads, seconds: start.elapsed().as_secs_f64() })
}

/// What the processor does for a device that is another: attention.
fn attention_of(
    host: &mut dyn Device,
    Settings { effort, clock }: Settings,
    say: &mut dyn FnMut(&str),
) -> Result<DeviceRates, ProfileError> {
    let mut meter = Meter::new(host, clock)?;
    let mut rates = Rates::new(Vec::new(), effort);
    rates.fixed(&mut meter, say)?;
    for _ in 0..effort.rounds_max() {
        rates.attention_round(&mut meter, effort, say)?;
    }
    Ok(rates.rates(&meter))
}

/// Measurements of one device.
struct Rates {
    linear: Vec<Linear>,
    attention: Vec<Attention>,
    elementwise: Elementwise,
    logits: Logits,
    embedding: Embedding,
    pass: f64,
}

impl Rates {
    fn new(dtypes: Vec<DType>, effort: Effort) -> Rates {
        Rates {
            linear: dtypes.into_iter().map(|dtype| Linear::new(dtype, effort)).collect(),
            attention: FORMATS.map(Attention::new).into(),
            elementwise: Elementwise::default(),
            logits: Logits::new(),
            embedding: Embedding::default(),
            pass: 0.0,
        }
    }

    /// Fixed costs come first: they are taken off the rest.
    fn fixed(
        &mut self,
        meter: &mut Meter<'_>,
        say: &mut dyn FnMut(&str),
    ) -> Result<(), ProfileError> {
        say("fixed costs");
        self.pass = fixed::measure(meter)?;
        Ok(())
    }

    fn round(
        &mut self,
        meter: &mut Meter<'_>,
        place: &DiskPlace,
        effort: Effort,
        say: &mut dyn FnMut(&str),
    ) -> Result<(), ProfileError> {
        for linear in &mut self.linear {
            say(&format!("linear layers, {}", linear.dtype));
            linear.round(meter, effort)?;
        }
        self.attention_round(meter, effort, say)?;
        say("norms, gates and sums");
        self.elementwise.round(meter, effort)?;
        say("logits and embeddings");
        self.logits.round(meter, effort)?;
        self.embedding.round(meter, place, effort)
    }

    fn attention_round(
        &mut self,
        meter: &mut Meter<'_>,
        effort: Effort,
        say: &mut dyn FnMut(&str),
    ) -> Result<(), ProfileError> {
        for attention in &mut self.attention {
            say(&format!("attention, {}", attention.format));
            attention.round(meter, effort)?;
        }
        Ok(())
    }

    fn rates(&self, meter: &Meter<'_>) -> DeviceRates {
        DeviceRates {
            linear: self.linear.iter().map(Linear::rate).collect(),
            attention: self.attention.iter().map(Attention::rate).collect(),
            elementwise_seconds: self.elementwise.seconds(),
            logit_seconds: self.logits.seconds(),
            embed_seconds: self.embedding.seconds(),
            call_seconds: meter.call,
            run_seconds: meter.run,
            pass_seconds: self.pass,
        }
    }
}
