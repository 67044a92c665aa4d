//! `--gpu-mem`, `--ram`, `--disk`: how much of each tier may be taken.

use super::memory;
use crate::backend::DeviceInfo;
use bytesize::ByteSize;
use forebay_planner::Split;
use std::path::Path;
use std::str::FromStr;

/// A budget as it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Amount {
    /// What is free, less a reserve.
    #[default]
    Auto,
    /// So many bytes.
    Bytes(u64),
    /// A part of what the machine has, 0 to 1.
    Part(f64),
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Amount, String> {
        let text = text.trim();
        if text.eq_ignore_ascii_case("auto") {
            return Ok(Amount::Auto);
        }
        let expected = || "expected a size such as 12GiB, a part such as 80%, or auto".to_string();
        if let Some(percent) = text.strip_suffix('%') {
            let part: f64 = percent.trim().parse().map_err(|_| expected())?;
            return match (0.0..=100.0).contains(&part) {
                true => Ok(Amount::Part(part / 100.0)),
                false => Err(expected()),
            };
        }
        text.parse::<ByteSize>().map(|size| Amount::Bytes(size.0)).map_err(|_| expected())
    }
}

impl Amount {
    /// The bytes it stands for, of a tier that has `total` bytes of which `free` are free; `reserve` of
    /// these stay free where nothing else was asked for.
    fn bytes(self, total: u64, free: u64, reserve: u64) -> u64 {
        match self {
            Amount::Auto => free.saturating_sub(reserve),
            Amount::Bytes(bytes) => bytes,
            Amount::Part(part) => (total as f64 * part) as u64,
        }
    }
}

/// The three budgets as they are written.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Amounts {
    pub(super) gpu_mem: Amount,
    pub(super) ram: Amount,
    pub(super) disk: Amount,
}

/// Left to the system and to other programs where nothing is said: a tenth, and half a GiB at least.
fn ram_reserve(total: u64) -> u64 {
    (total / 10).max(512 << 20)
}

/// What a device is taken to have where it does not say.
const UNKNOWN_DEVICE_BYTES: u64 = 4 << 30;

/// What the machine is taken to have where the system does not say.
const UNKNOWN_RAM_BYTES: u64 = 8 << 30;

/// Bytes of RAM that this process, which has `held` of them, may take.
fn ram_bytes(ram: Amount, total: Option<u64>, available: Option<u64>, held: u64) -> u64 {
    let total = total.unwrap_or(UNKNOWN_RAM_BYTES);
    let free = available.unwrap_or(total).saturating_add(held).min(total);
    ram.bytes(total, free, ram_reserve(total))
}

impl Amounts {
    /// Bytes of each tier. RAM counts what this process holds already.
    pub(super) fn resolve(&self, device: &DeviceInfo, folder: &Path) -> Split {
        let held = memory::resident_bytes().unwrap_or(0);
        let (total, available) = (memory::total_bytes(), memory::available_bytes());
        let ram = ram_bytes(self.ram, total, available, held);
        let memory = device.memory_bytes.unwrap_or(UNKNOWN_DEVICE_BYTES);
        // A tenth for what the driver and the desktop take.
        let gpu = self.gpu_mem.bytes(memory, memory, memory / 10);
        // The folder may not have been made yet.
        let space = folder.ancestors().find_map(crate::store::free_bytes);
        let space = space.unwrap_or(u64::MAX / 4);
        let disk = self.disk.bytes(space, space, space / 10);
        Split { device: gpu, ram, disk }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_sizes_parts_or_auto() {
        let parse = |text: &str| text.parse::<Amount>();
        assert_eq!(parse("12GiB"), Ok(Amount::Bytes(12 << 30)));
        assert_eq!(parse(" 400 MB "), Ok(Amount::Bytes(400_000_000)));
        assert_eq!(parse("80%"), Ok(Amount::Part(0.8)));
        assert_eq!(parse("AUTO"), Ok(Amount::Auto));
        for bad in ["", "much", "101%", "-1%", "NaN%", "12 apples"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Amount::Auto.bytes(100, 80, 10), 70);
        assert_eq!(Amount::Part(0.5).bytes(100, 80, 10), 50);
    }

    #[test]
    fn a_system_that_does_not_tell_is_taken_for_a_small_one() {
        const GIB: u64 = 1 << 30;
        let unknown = |ram| ram_bytes(ram, None, None, 0);
        assert_eq!(unknown(Amount::Auto), 8 * GIB - ram_reserve(8 * GIB));
        assert_eq!(unknown(Amount::Part(0.5)), 4 * GIB);
        assert_eq!(unknown(Amount::Bytes(100 * GIB)), 100 * GIB);
        let known = |ram| ram_bytes(ram, Some(64 * GIB), Some(20 * GIB), GIB);
        assert_eq!(known(Amount::Auto), 21 * GIB - ram_reserve(64 * GIB));
        assert_eq!(known(Amount::Part(0.5)), 32 * GIB);
    }
}
