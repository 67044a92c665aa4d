//! A run's trace in Chrome's format, for chrome://tracing and Perfetto.

use super::JobError;
use super::whole_file::replace;
use std::path::Path;
use std::time::Duration;

/// One event: name, track, start, duration, pass.
pub type TraceRow<'a> = (&'a str, &'a str, Duration, Duration, usize);

/// Writes events as complete ("X") events, a thread for each track.
pub fn write_trace<'a>(
    path: &Path,
    rows: impl IntoIterator<Item = TraceRow<'a>>,
) -> Result<(), JobError> {
    let written = replace(path, |out| {
        write!(out, "[")?;
        for (at, (name, track, start, duration, pass)) in rows.into_iter().enumerate() {
            let event = serde_json::json!({
                "name": name,
                "ph": "X",
                "ts": start.as_secs_f64() * 1e6,
                "dur": duration.as_secs_f64() * 1e6,
                "pid": 1,
                "tid": track,
                "args": {"pass": pass},
            });
            write!(out, "{}\n{event}", if at == 0 { "" } else { "," })?;
        }
        writeln!(out, "\n]")
    });
    written.map_err(|source| JobError::write(path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_a_json_array_of_complete_events() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.json");
        let ms = Duration::from_millis;
        let rows =
            [("run \"a\"", "schedule", ms(1), ms(2), 0), ("read 3", "reads", ms(2), ms(5), 1)];
        write_trace(&path, rows).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let events: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(events[0]["name"], "run \"a\"");
        assert_eq!((&events[1]["ts"], &events[1]["args"]["pass"]), (&2000.0.into(), &1.into()));
    }
}
