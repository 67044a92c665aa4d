//! Moving bytes: within host memory, and between it and the device.

use super::effort::Pace;
use super::error::ProfileError;
use super::meter::Meter;
use super::samples::{Overlap, Samples};
use crate::backend::{CopyPart, DeviceError};
use crate::kernel::Call;
use crate::quant::DType;
use std::fmt;
use std::time::Instant;

/// Bytes of one transfer: a small write, a segment of weights, a large tensor.
const SIZES: [usize; 3] = [64 << 10, 4 << 20, 32 << 20];

/// The size that weights and pages travel in.
const SEGMENT: usize = 4 << 20;

/// Bytes of a copy within host memory.
const COPY: usize = 32 << 20;

/// A way between host and device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// `Device::write`.
    Write,
    /// `Device::read`.
    Read,
    /// `Device::load`: packing and writing.
    Load,
    /// `Device::copy` from memory of the host that the device reaches.
    CopyUp,
    /// The same to it.
    CopyDown,
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Path::Write => "write",
            Path::Read => "read",
            Path::Load => "load",
            Path::CopyUp => "copy up",
            Path::CopyDown => "copy down",
        })
    }
}

/// What one path reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TransferRate {
    /// The path.
    pub path: Path,
    /// Bytes of each transfer.
    pub bytes: usize,
    /// What was reached.
    pub bytes_per_sec: f64,
}

/// Measurements of all paths.
pub(super) struct Memory {
    copy: Samples,
    transfers: Vec<(Path, usize, Samples)>,
    overlap: Overlap,
    /// Sums and copies that are made at once.
    steps: Option<[usize; 2]>,
    from: Vec<u8>,
    to: Vec<u8>,
}

impl Memory {
    pub(super) fn new() -> Memory {
        let paths = [Path::Write, Path::Read, Path::Load, Path::CopyUp, Path::CopyDown].into_iter();
        let all = paths.flat_map(|path| SIZES.map(|size| (path, size, Samples::default())));
        Memory {
            copy: Samples::default(),
            transfers: all.collect(),
            overlap: Overlap::default(),
            steps: None,
            from: Vec::new(),
            to: Vec::new(),
        }
    }

    pub(super) fn round(&mut self, meter: &mut Meter<'_>, pace: Pace) -> Result<(), ProfileError> {
        (self.from, self.to) = (vec![1; COPY], vec![2; COPY]);
        repeat(pace.slice(), &mut self.copy, || {
            self.to.copy_from_slice(&self.from);
            std::hint::black_box(&self.to);
            Ok(COPY)
        })?;
        for (path, bytes, samples) in &mut self.transfers {
            let host = &mut self.to[..*bytes];
            transfer(meter, *path, host, pace, samples)?;
        }
        (self.from, self.to) = (Vec::new(), Vec::new());
        Ok(())
    }

    /// Copies and sums at once: how much of the shorter runs beside the longer.
    pub(super) fn overlap_round(&mut self, meter: &mut Meter<'_>) -> Result<(), ProfileError> {
        let mark = meter.mark();
        let count = 1 << 20;
        let (x, y) = (meter.floats(count)?, meter.floats(count)?);
        let to = meter.buffer(SEGMENT)?;
        let host = vec![1u8; SEGMENT];
        let compute = vec![Call::Add { x, y, count }];
        let reached = match self.copies_by_itself() {
            true => meter.device.alloc_host(SEGMENT, "measuring")?,
            false => None,
        };
        let all = [CopyPart { from: 0, to: 0, bytes: SEGMENT }];
        let write = |meter: &mut Meter<'_>| match reached {
            Some(from) => meter.device.copy(from, to, &all),
            None => meter.device.write(to, 0, &host),
        };
        let one = |meter: &mut Meter<'_>, calls: usize, writes: usize| {
            let start = Instant::now();
            for step in 0..calls.max(writes) {
                if step < calls {
                    meter.device.run(&compute)?;
                }
                if step < writes {
                    write(meter)?;
                }
            }
            meter.finish()?;
            Ok::<f64, DeviceError>(start.elapsed().as_secs_f64())
        };
        let [calls, writes] = match self.steps {
            Some(steps) => steps,
            // About equally long, so that as much as possible could be hidden.
            None => {
                let steps = |seconds: f64| ((0.08 / seconds.max(1e-6)) as usize).clamp(1, 2000);
                *self.steps.insert([one(meter, 4, 0)?, one(meter, 0, 4)?].map(steps))
            }
        };
        let alone = [one(meter, calls, 0)?, one(meter, 0, writes)?];
        self.overlap.push(alone, one(meter, calls, writes)?);
        meter.release(mark);
        if let Some(reached) = reached {
            meter.device.free(reached);
        }
        Ok(())
    }

    /// Part of the shorter of copy and compute that runs beside the longer.
    pub(super) fn overlap(&self) -> f64 {
        self.overlap.part()
    }

    /// Copies within host memory, bytes copied per second.
    pub(super) fn copy_rate(&self) -> f64 {
        1.0 / self.copy.least()
    }

    /// What segments reached on this path, if there is one.
    pub(super) fn rate(&self, path: Path) -> Option<f64> {
        let rates = self.transfers();
        let found = rates.iter().find(|rate| rate.path == path && rate.bytes == SEGMENT);
        found.map(|rate| rate.bytes_per_sec)
    }

    /// Whether the device is faster where it copies from memory of the host by itself.
    pub(super) fn copies_by_itself(&self) -> bool {
        self.rate(Path::CopyUp) > self.rate(Path::Write)
    }

    /// What was reached on each path.
    pub(super) fn transfers(&self) -> Vec<TransferRate> {
        let rate = |(path, bytes, samples): &(Path, usize, Samples)| TransferRate {
            path: *path,
            bytes: *bytes,
            bytes_per_sec: 1.0 / samples.least(),
        };
        self.transfers.iter().filter(|(.., samples)| !samples.is_empty()).map(rate).collect()
    }
}

/// Takes samples of the seconds per byte of `work`, which says how many bytes it moved.
fn repeat(
    slice: f64,
    samples: &mut Samples,
    mut work: impl FnMut() -> Result<usize, DeviceError>,
) -> Result<(), DeviceError> {
    let begin = Instant::now();
    loop {
        let start = Instant::now();
        let bytes = work()?;
        samples.push(start.elapsed().as_secs_f64() / bytes as f64);
        if begin.elapsed().as_secs_f64() > slice {
            return Ok(());
        }
    }
}

/// Moves `host` to or from the device, several times where it is small.
fn transfer(
    meter: &mut Meter<'_>,
    path: Path,
    host: &mut [u8],
    pace: Pace,
    samples: &mut Samples,
) -> Result<(), DeviceError> {
    let mark = meter.mark();
    let times = (SEGMENT / host.len()).max(1);
    let copies = matches!(path, Path::CopyUp | Path::CopyDown);
    let reached = if copies { meter.device.alloc_host(host.len(), "measuring")? } else { None };
    if copies && reached.is_none() {
        return Ok(());
    }
    let all = [CopyPart { from: 0, to: 0, bytes: host.len() }];
    let buffer = if path == Path::Load { None } else { Some(meter.buffer(host.len())?) };
    let measured = repeat(pace.slice(), samples, || {
        for _ in 0..times {
            match (path, buffer) {
                (Path::CopyUp, Some(buffer)) => {
                    meter.device.copy(reached.unwrap_or(buffer), buffer, &all)?;
                }
                (Path::CopyDown, Some(buffer)) => {
                    meter.device.copy(buffer, reached.unwrap_or(buffer), &all)?;
                }
                (Path::Read, Some(buffer)) => meter.device.read(buffer, 0, host)?,
                (_, Some(buffer)) => meter.device.write(buffer, 0, host)?,
                (_, None) => {
                    let (cols, row_bytes) = (1024, DType::Q8_0.row_bytes(1024));
                    let rows = host.len() / row_bytes;
                    let bytes = &host[..rows * row_bytes];
                    let matrix = meter.device.load(DType::Q8_0, rows, cols, bytes, "measuring")?;
                    meter.device.unload(matrix);
                }
            }
        }
        meter.finish()?;
        Ok(times * host.len())
    });
    meter.release(mark);
    if let Some(reached) = reached {
        meter.device.free(reached);
    }
    measured
}

#[cfg(test)]
mod tests {
    use super::super::effort::Effort;
    use super::super::meter::Clock;
    use super::*;
    use crate::backend::cpu::CpuDevice;

    #[test]
    fn every_path_gets_a_rate() {
        let mut device = CpuDevice::new(Some(1)).unwrap();
        let mut meter = Meter::new(&mut device, Clock::Wall).unwrap();
        let mut memory = Memory::new();
        memory.round(&mut meter, Pace::start(Effort::Quick, Clock::Wall)).unwrap();
        memory.overlap_round(&mut meter).unwrap();
        let rates = memory.transfers();
        assert_eq!(rates.len(), 9);
        assert!(rates.iter().all(|rate| rate.bytes_per_sec > 1e6), "{rates:?}");
        assert!(memory.copy_rate() > 1e8 && (0.0..=1.0).contains(&memory.overlap()));
        assert!(memory.rate(Path::Write) > Some(0.0) && memory.rate(Path::CopyUp).is_none());
        assert!(!memory.copies_by_itself());
    }
}
