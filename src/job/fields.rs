//! JSON objects as fields that are parsed only when asked for, so that a hostile line costs no more
//! memory than its own length.

use super::limits::{KEYS_MAX, Range};
use serde::Deserialize;
use serde::de::{self, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FieldError {
    pub(super) code: &'static str,
    pub(super) param: Option<String>,
    pub(super) message: String,
}

impl FieldError {
    pub(super) fn invalid(param: &str, message: impl fmt::Display) -> FieldError {
        let message = format!("{param}: {message}");
        FieldError { code: "invalid_value", param: Some(param.to_string()), message }
    }

    pub(super) fn unsupported(param: &str, message: impl fmt::Display) -> FieldError {
        let message = format!("{param}: {message}");
        FieldError { code: "unsupported_field", param: Some(param.to_string()), message }
    }

    /// A value that is not of the `expected` kind.
    pub(super) fn mismatch(param: &str, expected: impl fmt::Display, raw: &str) -> FieldError {
        FieldError::invalid(param, format!("expected {expected}, got {}", preview(raw)))
    }
}

/// The start of a value, for messages.
pub(super) fn preview(raw: &str) -> String {
    preview_of(raw, 40)
}

/// At most `bytes_max` bytes of a value.
pub(super) fn preview_of(raw: &str, bytes_max: usize) -> String {
    let mut end = raw.len().min(bytes_max);
    while !raw.is_char_boundary(end) {
        end -= 1;
    }
    let dots = if end < raw.len() { "…" } else { "" };
    format!("{}{dots}", &raw[..end])
}

/// The fields of an object, values as written. The last of equal keys counts; null is absence.
#[derive(Debug, Default)]
pub(super) struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Fields<'de>, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Fields<'de>, M::Error> {
                let mut fields = Vec::new();
                while let Some(entry) = map.next_entry::<String, &'de RawValue>()? {
                    if fields.len() == KEYS_MAX {
                        return Err(de::Error::custom(format!("more than {KEYS_MAX} fields")));
                    }
                    fields.push(entry);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl<'a> Fields<'a> {
    /// The object written in `raw`; `param` names it in errors.
    pub(super) fn parse(raw: &'a str, param: &str) -> Result<Fields<'a>, FieldError> {
        serde_json::from_str(raw).map_err(|error| match raw.starts_with('{') {
            true => FieldError::invalid(param, plain(&error)),
            false => FieldError::mismatch(param, "an object", raw),
        })
    }

    /// The value as written; `None` if absent or null.
    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        let found = self.0.iter().rev().find(|(key, _)| key == name);
        found.map(|(_, raw)| raw.get()).filter(|&raw| raw != "null")
    }

    /// Keys in order of appearance.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(key, _)| key.as_str())
    }

    pub(super) fn number(&self, name: &str, range: Range) -> Result<Option<f32>, FieldError> {
        let Some(raw) = self.get(name) else { return Ok(None) };
        let value = serde_json::from_str::<f64>(raw).ok().and_then(|value| range.check(value));
        value.map(Some).ok_or_else(|| FieldError::mismatch(name, range, raw))
    }

    pub(super) fn integer(
        &self,
        name: &str,
        min: i128,
        max: i128,
    ) -> Result<Option<i128>, FieldError> {
        let Some(raw) = self.get(name) else { return Ok(None) };
        let value = integer(raw).filter(|value| (min..=max).contains(value));
        let expected = || format!("an integer from {min} to {max}");
        value.map(Some).ok_or_else(|| FieldError::mismatch(name, expected(), raw))
    }

    pub(super) fn boolean(&self, name: &str) -> Result<bool, FieldError> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(raw) => Err(FieldError::mismatch(name, "true or false", raw)),
        }
    }

    /// A string; `None` for anything else.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.get(name)?).ok()
    }

    pub(super) fn string(&self, name: &str) -> Result<Option<String>, FieldError> {
        let Some(raw) = self.get(name) else { return Ok(None) };
        string(raw, name, "a string").map(Some)
    }
}

/// The string written in `raw`.
pub(super) fn string(raw: &str, param: &str, expected: &str) -> Result<String, FieldError> {
    serde_json::from_str(raw).map_err(|error| match raw.starts_with('"') {
        // Well formed but not text: half of a surrogate pair.
        true => FieldError::invalid(param, format!("not a valid string: {}", plain(&error))),
        false => FieldError::mismatch(param, expected, raw),
    })
}

/// The integer written in `raw`; `3.0` counts as one.
pub(super) fn integer(raw: &str) -> Option<i128> {
    let exact = raw.parse::<i128>().ok();
    let float = || raw.parse::<f64>().ok().filter(|v| v.fract() == 0.0 && v.abs() < 9e15);
    exact.or_else(|| float().map(|value| value as i128))
}

/// A serde message without its position.
pub(super) fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_string(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::super::limits::{REPETITION_PENALTY, TEMPERATURE};
    use super::*;

    fn fields(text: &str) -> Fields<'_> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_last_of_equal_keys_counts_and_null_is_absence() {
        let fields = fields(r#"{"a":1,"a":2,"b":null}"#);
        assert_eq!(fields.integer("a", 0, 9), Ok(Some(2)));
        assert_eq!(fields.integer("b", 0, 9), Ok(None));
        assert_eq!(fields.get("c"), None);
    }

    #[test]
    fn numbers_are_held_to_their_range() {
        let fields = fields(r#"{"a":2,"b":2.5,"c":"1","d":0,"e":1e999,"f":1e-300}"#);
        assert_eq!(fields.number("a", TEMPERATURE), Ok(Some(2.0)));
        let error = fields.number("b", TEMPERATURE).unwrap_err();
        assert_eq!(error.message, "b: expected a number from 0 to 2, got 2.5");
        assert!(fields.number("c", TEMPERATURE).is_err());
        assert!(fields.number("e", TEMPERATURE).is_err());
        for excluded in ["d", "f"] {
            assert!(fields.number(excluded, REPETITION_PENALTY).is_err());
        }
    }

    #[test]
    fn integers_may_be_written_with_a_zero_fraction() {
        let fields = fields(r#"{"a":3.0,"b":3.5,"c":99999999999999999999,"d":true}"#);
        assert_eq!(fields.integer("a", 1, 5), Ok(Some(3)));
        let error = fields.integer("b", 1, 5).unwrap_err();
        assert_eq!(error.message, "b: expected an integer from 1 to 5, got 3.5");
        assert!(fields.integer("c", 1, 5).is_err());
        assert!(fields.integer("d", 1, 5).is_err());
    }

    #[test]
    fn too_many_fields_are_refused() {
        let body: Vec<String> = (0..=KEYS_MAX).map(|i| format!("\"k{i}\":0")).collect();
        let text = format!("{{{}}}", body.join(","));
        let error = serde_json::from_str::<Fields<'_>>(&text).unwrap_err();
        assert!(error.to_string().contains("more than 1024 fields"), "{error}");
    }

    #[test]
    fn previews_are_short_and_whole_characters() {
        assert_eq!(preview("abc"), "abc");
        let long = "é".repeat(50);
        assert_eq!(preview(&long), format!("{}…", "é".repeat(20)));
    }
}
