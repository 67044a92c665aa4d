//! `plan --sweep`: a budget or a rate, from one value to another.

use bytesize::ByteSize;
use std::str::FromStr;

/// What is varied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    /// Device memory, bytes.
    GpuMem,
    /// RAM, bytes.
    Ram,
    /// Rate of the disk, bytes per second.
    Throttle,
}

impl Axis {
    /// Its name on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Axis::GpuMem => "gpu-mem",
            Axis::Ram => "ram",
            Axis::Throttle => "throttle",
        }
    }
}

/// Values from one end to the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sweep {
    pub(super) axis: Axis,
    pub(super) values: Vec<u64>,
}

/// Rows where nothing is said.
const ROWS: u64 = 9;

/// Most rows.
const ROWS_MAX: u64 = 200;

impl FromStr for Sweep {
    type Err = String;

    fn from_str(text: &str) -> Result<Sweep, String> {
        let expected = || {
            format!("`{text}`: expected gpu-mem=, ram= or throttle= and a range as in 4GiB..24GiB")
        };
        let (name, range) = text.split_once('=').ok_or_else(expected)?;
        let axis = [Axis::GpuMem, Axis::Ram, Axis::Throttle].into_iter();
        let axis = axis.clone().find(|axis| axis.name() == name.trim()).ok_or_else(expected)?;
        let (first, rest) = range.split_once("..").ok_or_else(expected)?;
        // `2GB/s..4GB/s/9`: a number after the last slash counts rows.
        let (last, rows) = match rest.rsplit_once('/') {
            Some((last, rows)) if rows.trim().parse::<u64>().is_ok() => {
                (last, rows.trim().parse().map_err(|_| expected())?)
            }
            _ => (rest, ROWS),
        };
        let size = |text: &str| {
            let text = text.trim();
            let size = text.strip_suffix("/s").unwrap_or(text).parse::<ByteSize>();
            size.map(|size| size.0).map_err(|_| expected())
        };
        let (first, last) = (size(first)?, size(last)?);
        if first == 0 || last < first || !(1..=ROWS_MAX).contains(&rows) {
            return Err(format!("`{text}`: a range rises from above 0, in 1 to {ROWS_MAX} rows"));
        }
        let step = |row: u64| match rows {
            1 => first,
            _ => first + (u128::from(last - first) * u128::from(row) / u128::from(rows - 1)) as u64,
        };
        Ok(Sweep { axis, values: (0..rows).map(step).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_ends_and_rows() {
        let parse = |text: &str| text.parse::<Sweep>();
        let sweep = parse("gpu-mem=4GiB..24GiB/6").unwrap();
        assert_eq!(sweep.axis, Axis::GpuMem);
        assert_eq!(sweep.values, [4u64, 8, 12, 16, 20, 24].map(|gib| gib << 30));
        let sweep = parse("throttle=100MB/s..900MB/s").unwrap();
        assert_eq!((sweep.values.len(), sweep.values[8]), (9, 900_000_000));
        for bad in ["", "ram", "ram=1GiB", "ram=2GiB..1GiB", "vram=1GiB..2GiB", "ram=1GiB..2GiB/0"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
