//! The order of measuring, and what it adds up to.

use super::disk::{Disk, DiskPlace, ReadRate};
use super::effort::{Effort, Pace};
use super::error::ProfileError;
use super::memory::{Memory, Path, TransferRate};
use super::meter::{Clock, Meter};
use super::rates::Rates;
use super::steadiness::Steadiness;
use crate::backend::{Device, DeviceKind};
use crate::quant::DType;
use forebay_planner::HardwareProfile;

/// Last looks at the disk, alone and beside computing.
const CONFIRMATIONS: usize = 5;

/// Parts of the time by which the first round is done with memory and with the disk.
const FIRST: [f64; 2] = [0.8, 0.9];

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
    /// By how much equal calls took longer than they can, on average, as a part of the least time:
    /// what other programs did to them.
    pub noise: f64,
    /// Time that measuring took.
    pub seconds: f64,
}

/// Whether a kind of device computes in the host's memory, so that its bytes count against RAM and
/// nothing is uploaded: `HardwareProfile::shares_ram` of what is measured on it.
pub fn shares_ram(kind: DeviceKind) -> bool {
    !matches!(kind, DeviceKind::DiscreteGpu | DeviceKind::OtherGpu)
}

/// Measures `device`, and the disk of `place`. `host` is the processor where `device` is another;
/// `say` hears what is being measured.
///
/// Everything is measured in rounds, so that a program that comes between spoils some timings of a
/// thing and not all; of these the least count.
pub fn calibrate(
    device: &mut dyn Device,
    host: Option<&mut dyn Device>,
    place: &DiskPlace,
    settings: Settings,
    say: &mut dyn FnMut(&str),
) -> Result<Calibration, ProfileError> {
    let Settings { effort, clock } = settings;
    let pace = Pace::start(effort, clock);
    let kind = device.info().kind;
    let shares_ram = shares_ram(kind);
    let say = &mut |what: &str| {
        tracing::debug!(seconds = pace.spent(), "measuring {what}");
        say(what);
    };
    say("writing to the disk");
    let mut disk = Disk::open(place, effort)?;
    let mut memory = Memory::new();
    let mut meter = Meter::new(device, clock)?;
    let mut rates = Rates::new(DType::ALL.to_vec(), kind, effort);
    let mut host = match host {
        Some(host) => {
            Some((Meter::new(host, clock)?, Rates::new(Vec::new(), DeviceKind::Cpu, effort)))
        }
        None => None,
    };
    let mut steadiness = Steadiness::load(&mut meter, pace)?;
    let mut rounds = Rounds {
        meter: &mut meter,
        rates: &mut rates,
        host: host.as_mut(),
        memory: &mut memory,
        disk: &mut disk,
        steadiness: &mut steadiness,
    };
    let done = rounds.all(place, pace, !shares_ram, say);
    let noise = steadiness.noise();
    steadiness.unload(&mut meter);
    done?;
    let device = rates.rates();
    let host = host.map_or_else(|| device.clone(), |(_, rates)| rates.rates());
    let copies_by_itself = !shares_ram && memory.copies_by_itself();
    let [up, down] = match copies_by_itself {
        true => [Path::CopyUp, Path::CopyDown],
        false => [Path::Write, Path::Read],
    };
    let transfer = |path| if shares_ram { 0.0 } else { memory.rate(path).unwrap_or(0.0) };
    let profile = HardwareProfile {
        device,
        host,
        shares_ram,
        ram_bytes_per_sec: memory.copy_rate(),
        upload_bytes_per_sec: transfer(up),
        download_bytes_per_sec: transfer(down),
        copies_by_itself,
        upload_overlap: memory.overlap(),
        disk: disk.profile(),
    };
    let (transfers, reads) = (memory.transfers(), disk.rates());
    Ok(Calibration { profile, transfers, reads, noise, seconds: pace.spent() })
}

/// What takes part in a round.
struct Rounds<'a, 'm> {
    meter: &'a mut Meter<'m>,
    rates: &'a mut Rates,
    host: Option<&'a mut (Meter<'m>, Rates)>,
    memory: &'a mut Memory,
    disk: &'a mut Disk,
    steadiness: &'a mut Steadiness,
}

impl Rounds<'_, '_> {
    /// As many rounds as there is time for, one at least, and the last looks.
    fn all(
        &mut self,
        place: &DiskPlace,
        pace: Pace,
        uploads: bool,
        say: &mut dyn FnMut(&str),
    ) -> Result<(), ProfileError> {
        let mut longest = 0.0f64;
        for round in 0..pace.effort.rounds_max() {
            let begun = pace.spent();
            if round > 0 && !pace.fits(longest) {
                break;
            }
            self.steadiness.look(self.meter, pace)?;
            self.rates.round(self.meter, place, pace, say)?;
            if let Some((meter, rates)) = &mut self.host {
                rates.attention_round(meter, pace, say)?;
            }
            self.steadiness.look(self.meter, pace)?;
            let [memory, disk] = FIRST.map(|part| if round == 0 { pace.until(part) } else { pace });
            say("memory");
            self.memory.round(self.meter, memory)?;
            if uploads {
                self.memory.overlap_round(self.meter)?;
            }
            say("disk");
            self.disk.round(disk)?;
            longest = longest.max(pace.spent() - begun);
        }
        for look in 0..CONFIRMATIONS {
            if look == 0 || !pace.is_late() {
                self.disk.confirm(self.meter, pace.effort)?;
            }
        }
        Ok(self.steadiness.look(self.meter, pace)?)
    }
}
