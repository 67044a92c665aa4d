//! Lists and ranges of numbers, as llama-bench takes them: `1,8,32`, `1-64*2`, `16-64+16`.

use super::values::COUNT_MAX;
use std::str::FromStr;

/// Most numbers of one series.
const LEN_MAX: usize = 1000;

/// Numbers in the order in which they were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Series(pub(super) Vec<usize>);

impl FromStr for Series {
    type Err = String;

    fn from_str(text: &str) -> Result<Series, String> {
        let mut numbers = Vec::new();
        for part in text.split(',') {
            extend(&mut numbers, part.trim())?;
        }
        Ok(Series(numbers))
    }
}

/// Appends a number, or those of `first-last`, `first-last+step`, `first-last*factor`.
fn extend(numbers: &mut Vec<usize>, part: &str) -> Result<(), String> {
    let Some((first, rest)) = part.split_once('-') else {
        numbers.push(number(part)?);
        return check_len(numbers);
    };
    let (last, step): (&str, fn(usize, usize) -> usize) = match rest.find(['+', '*']) {
        Some(at) if rest.as_bytes()[at] == b'+' => (&rest[..at], usize::saturating_add),
        Some(at) => (&rest[..at], usize::saturating_mul),
        None => (rest, usize::saturating_add),
    };
    let by = match rest.get(last.len() + 1..) {
        Some(by) => number(by)?,
        None => 1,
    };
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(format!("`{part}`: the first number is larger than the last"));
    }
    let mut value = first;
    while value <= last {
        numbers.push(value);
        check_len(numbers)?;
        let next = step(value, by);
        if next <= value {
            return Err(format!("`{part}`: the steps lead nowhere"));
        }
        value = next;
    }
    Ok(())
}

fn check_len(numbers: &[usize]) -> Result<(), String> {
    match numbers.len() > LEN_MAX {
        true => Err(format!("more than {LEN_MAX} numbers")),
        false => Ok(()),
    }
}

fn number(text: &str) -> Result<usize, String> {
    let number = text.trim().parse().ok().filter(|&number| number <= COUNT_MAX);
    number.ok_or_else(|| {
        format!("`{text}`: expected a number up to {COUNT_MAX}, a list such as 1,8,32, or a range such as \
                 1-64*2 or 16-64+16")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges() {
        for (text, numbers) in [
            ("512", vec![512]),
            ("1, 8,32", vec![1, 8, 32]),
            ("1-4", vec![1, 2, 3, 4]),
            ("16-64+16", vec![16, 32, 48, 64]),
            ("1-100*4,0", vec![1, 4, 16, 64, 0]),
            ("7-7", vec![7]),
        ] {
            assert_eq!(text.parse(), Ok(Series(numbers)), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, said) in [
            ("", "expected a number"),
            ("8,", "expected a number"),
            ("-1", "expected a number"),
            ("8-", "expected a number"),
            ("1-8*", "expected a number"),
            ("8-1", "first number is larger"),
            ("0-8*2", "lead nowhere"),
            ("1-8+0", "lead nowhere"),
            ("1-8*1", "lead nowhere"),
            ("0-16777216", "more than 1000"),
            ("99999999999", "expected a number"),
        ] {
            let error = text.parse::<Series>().unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
