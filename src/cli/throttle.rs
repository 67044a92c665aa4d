//! `--throttle`: rates that stand in for slower disks and buses.

use bytesize::ByteSize;
use std::str::FromStr;

/// Rates in bytes per second; `None` leaves a tier as fast as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttles {
    /// Reads and writes of files.
    pub disk: Option<u64>,
    /// Memory to device.
    pub upload: Option<u64>,
}

/// From `disk=200MB/s,upload=1.5GiB/s`: either or both, in any order, each once.
impl FromStr for Throttles {
    type Err = String;

    fn from_str(text: &str) -> Result<Throttles, String> {
        let mut throttles = Throttles::default();
        for part in text.split(',') {
            let Some((name, rate)) = part.split_once('=') else {
                return Err(format!("`{part}`: expected disk=RATE or upload=RATE"));
            };
            let place = match name.trim() {
                "disk" => &mut throttles.disk,
                "upload" => &mut throttles.upload,
                other => return Err(format!("`{other}` is no tier; there are disk and upload")),
            };
            if place.replace(self::rate(rate)?).is_some() {
                return Err(format!("{} is given twice", name.trim()));
            }
        }
        Ok(throttles)
    }
}

/// Bytes per second from `200MB/s` (10^6) or `1.5GiB/s` (2^30); the `/s` may be left out.
fn rate(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let size = text.strip_suffix("/s").unwrap_or(text).trim_end();
    match size.parse::<ByteSize>() {
        Ok(ByteSize(bytes)) if bytes > 0 => Ok(bytes),
        _ => Err(format!("`{text}`: expected a rate above 0, as in 200MB/s or 1.5GiB/s")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(Option<u64>, Option<u64>), String> {
        text.parse::<Throttles>().map(|t| (t.disk, t.upload))
    }

    #[test]
    fn rates_have_units() {
        assert_eq!(parse("disk=200MB/s"), Ok((Some(200_000_000), None)));
        assert_eq!(parse("upload=1.5GiB/s"), Ok((None, Some(3 << 29))));
        assert_eq!(parse(" disk = 64 KiB/s, upload=2G"), Ok((Some(65536), Some(2_000_000_000))));
        assert_eq!(parse("disk=1000/s"), Ok((Some(1000), None)));
    }

    #[test]
    fn anything_else_is_named() {
        for (text, part) in [
            ("", "expected disk=RATE"),
            ("200MB/s", "`200MB/s`: expected disk=RATE"),
            ("disk=", "as in 200MB/s"),
            ("disk=0MB/s", "above 0"),
            ("disk=0.1B/s", "above 0"),
            ("disk=-1MB/s", "above 0"),
            ("disk=infGB/s", "above 0"),
            ("disk=5MB/h", "`5MB/h`"),
            ("ssd=5MB/s", "`ssd` is no tier"),
            ("disk=1MB/s,disk=2MB/s", "disk is given twice"),
            ("disk=1MB/s,", "``: expected"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
