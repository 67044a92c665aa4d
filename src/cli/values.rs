//! Texts of arguments to values, with messages that say what is allowed.

use crate::job::{
    FREQUENCY_PENALTY, MIN_P, PRESENCE_PENALTY, REPETITION_PENALTY, TEMPERATURE, TOP_P,
};

use forebay_planner::PinnedSplit;

/// Most of anything that is counted: what 32-bit offsets on devices can hold with room to spare.
pub(super) const COUNT_MAX: usize = 1 << 24;

/// A count from 1.
pub(super) fn count(text: &str) -> Result<usize, String> {
    integer(text, 1, COUNT_MAX)
}

/// Threads wait for each other: many more than cores would stand in each other's way.
pub(super) fn threads(text: &str) -> Result<usize, String> {
    integer(text, 1, 256)
}

/// Parts of weights or of the cache on each tier, as in `gpu=20%,ram=50%`.
pub(super) fn split(text: &str) -> Result<PinnedSplit, String> {
    let mut split = PinnedSplit::default();
    for part in text.split(',') {
        let expected = || format!("`{part}`: expected gpu=, ram= or disk= and a part such as 20%");
        let (name, value) = part.split_once('=').ok_or_else(expected)?;
        let percent = value.trim().strip_suffix('%').and_then(|v| v.trim().parse::<f64>().ok());
        let percent = percent.filter(|p| (0.0..=100.0).contains(p)).ok_or_else(expected)?;
        let place = match name.trim() {
            "gpu" => &mut split.device,
            "ram" => &mut split.ram,
            "disk" => &mut split.disk,
            _ => return Err(expected()),
        };
        if place.replace(percent / 100.0).is_some() {
            return Err(format!("{} is given twice", name.trim()));
        }
    }
    let parts = [split.device, split.ram, split.disk];
    let total: f64 = parts.iter().flatten().sum();
    let sum = 100.0 * total;
    let whole = (sum - 100.0).abs() < 0.1;
    if !whole && (sum > 100.0 || parts.iter().all(Option::is_some)) {
        return Err(format!("the parts add up to {sum:.1} %, not to 100 %"));
    }
    if whole {
        // Parts are rounded where they are written; a planner takes them to the last digit.
        let places = [&mut split.device, &mut split.ram, &mut split.disk];
        places.into_iter().flatten().for_each(|part| *part /= total);
    }
    Ok(split)
}

/// A part such as `1%`.
pub(super) fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim().strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    let number = number.filter(|number| (0.0..=100.0).contains(number));
    number.map(|number| number / 100.0).ok_or_else(|| "expected a percentage such as 1%".into())
}

/// A sequence has room for a prompt and an answer.
pub(super) fn context(text: &str) -> Result<usize, String> {
    integer(text, 2, COUNT_MAX)
}

/// A chunk has a half to score.
pub(super) fn chunk(text: &str) -> Result<usize, String> {
    integer(text, 4, COUNT_MAX)
}

fn integer(text: &str, min: usize, max: usize) -> Result<usize, String> {
    let value = text.trim().parse().ok().filter(|value| (min..=max).contains(value));
    value.ok_or_else(|| format!("expected an integer from {min} to {max}"))
}

pub(super) fn temperature(text: &str) -> Result<f32, String> {
    TEMPERATURE.parse(text)
}

pub(super) fn top_p(text: &str) -> Result<f32, String> {
    TOP_P.parse(text)
}

pub(super) fn min_p(text: &str) -> Result<f32, String> {
    MIN_P.parse(text)
}

pub(super) fn repetition_penalty(text: &str) -> Result<f32, String> {
    REPETITION_PENALTY.parse(text)
}

pub(super) fn frequency_penalty(text: &str) -> Result<f32, String> {
    FREQUENCY_PENALTY.parse(text)
}

pub(super) fn presence_penalty(text: &str) -> Result<f32, String> {
    PRESENCE_PENALTY.parse(text)
}

/// A stop string is not empty.
pub(super) fn stop(text: &str) -> Result<String, String> {
    crate::job::check_stops(&[text.to_string()]).map(|()| text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `forebay plan` prints them, to two digits.
    #[test]
    fn rounded_parts_make_a_whole() {
        for text in ["gpu=33.33%,ram=33.33%,disk=33.33%", "gpu=0%,ram=66.67%,disk=33.34%"] {
            let PinnedSplit { device, ram, disk } = split(text).unwrap();
            let sum = device.unwrap() + ram.unwrap() + disk.unwrap();
            assert!((sum - 1.0).abs() < 1e-12, "{text}: {sum}");
        }
        // A device that computes in RAM has two.
        let two = split("ram=41.67%,disk=58.34%").unwrap();
        assert_eq!(two.device, None);
        assert!((two.ram.unwrap() + two.disk.unwrap() - 1.0).abs() < 1e-12, "{two:?}");
        let open = split("gpu=20%,ram=50%").unwrap();
        assert_eq!((open.device, open.ram, open.disk), (Some(0.2), Some(0.5), None));
        for bad in ["gpu=50%,ram=50%,disk=1%", "gpu=50%,ram=20%,disk=20%", "ram=60%,disk=60%"] {
            assert!(split(bad).unwrap_err().contains("add up to"), "{bad}");
        }
    }
}
