//! Jobs over a fake engine: every line answered once, whatever the lines and the interruptions.
//! In: lines as bytes. Out: result lines as JSON.
//! Must never know: real models.

mod any_bytes;
mod fake;
mod parse;
mod resume;
