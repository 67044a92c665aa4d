//! Bounds of what a line may ask for; the command line holds its own defaults to the same.

use std::fmt;

/// Longest input line, bytes.
pub(super) const LINE_BYTES_MAX: usize = 16 << 20;
/// Most keys of a JSON object in a line.
pub(super) const KEYS_MAX: usize = 1024;
/// Longest custom_id, bytes.
pub(super) const CUSTOM_ID_BYTES_MAX: usize = 1024;
/// Most prompts in a line.
pub(super) const PROMPTS_MAX: usize = 2048;
/// Most choices per prompt.
pub(super) const CHOICES_MAX: i128 = 128;
/// Most stop strings.
pub(super) const STOPS_MAX: usize = 64;
/// Longest stop string, bytes.
pub(super) const STOP_BYTES_MAX: usize = 1024;

/// Range of a sampling parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// Smallest value.
    pub min: f32,
    /// Largest value.
    pub max: f32,
    /// Whether `min` itself is left out.
    pub above_min: bool,
}

/// Range of temperature; 0 is greedy.
pub const TEMPERATURE: Range = Range { min: 0.0, max: 2.0, above_min: false };
/// Range of top_p.
pub const TOP_P: Range = Range { min: 0.0, max: 1.0, above_min: false };
/// Range of min_p.
pub const MIN_P: Range = Range { min: 0.0, max: 1.0, above_min: false };
/// Range of repetition_penalty.
pub const REPETITION_PENALTY: Range = Range { min: 0.0, max: 100.0, above_min: true };
/// Range of frequency_penalty.
pub const FREQUENCY_PENALTY: Range = Range { min: -2.0, max: 2.0, above_min: false };
/// Range of presence_penalty.
pub const PRESENCE_PENALTY: Range = Range { min: -2.0, max: 2.0, above_min: false };
/// Range of one logit bias.
pub(super) const BIAS: Range = Range { min: -100.0, max: 100.0, above_min: false };

impl Range {
    /// `value` if it is a number in range.
    pub fn check(&self, value: f64) -> Option<f32> {
        let (min, max) = (f64::from(self.min), f64::from(self.max));
        let above = if self.above_min { value > min } else { value >= min };
        // The second look is for values that round down to an excluded 0.
        let narrow = value as f32;
        (above && value <= max && (!self.above_min || narrow > self.min)).then_some(narrow)
    }

    /// [`Range::check`] of text, with a message that names the range.
    pub fn parse(&self, text: &str) -> Result<f32, String> {
        let value = text.trim().parse::<f64>().ok();
        value.and_then(|value| self.check(value)).ok_or_else(|| format!("expected {self}"))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.above_min {
            write!(f, "a number above {} up to {}", self.min, self.max)
        } else {
            write!(f, "a number from {} to {}", self.min, self.max)
        }
    }
}
