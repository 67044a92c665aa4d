//! Appends result lines and makes them last.

use super::JobError;
use std::fs::File;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// A killed machine loses at most what was written in this time, or this many lines; both are done
/// again on resume. (A killed process loses nothing that was written.)
const SYNC_INTERVAL: Duration = Duration::from_millis(200);
const SYNC_LINES: usize = 256;

/// Where lines go.
pub(super) enum Sink {
    /// A regular file, standing at its end.
    File(File),
    /// Standard output, a pipe or a device.
    Stream(Box<dyn Write>),
}

/// Appends lines, whole or not at all, and syncs them in groups.
pub(super) struct Writer {
    sink: Sink,
    name: String,
    unsynced: usize,
    synced_at: Instant,
}

impl Writer {
    /// `name` is for messages.
    pub(super) fn new(sink: Sink, name: String) -> Writer {
        Writer { sink, name, unsynced: 0, synced_at: Instant::now() }
    }

    /// Appends one line, its end included.
    pub(super) fn append(&mut self, line: &[u8]) -> Result<(), JobError> {
        debug_assert_eq!(line.last(), Some(&b'\n'));
        let result = match &mut self.sink {
            Sink::File(file) => append_whole(file, line),
            Sink::Stream(stream) => stream.write_all(line),
        };
        result.map_err(|source| self.error(source))?;
        self.unsynced += 1;
        if self.unsynced >= SYNC_LINES { self.sync() } else { self.tick() }
    }

    /// Syncs if it is time to.
    pub(super) fn tick(&mut self) -> Result<(), JobError> {
        if self.unsynced > 0 && self.synced_at.elapsed() >= SYNC_INTERVAL {
            self.sync()?;
        }
        Ok(())
    }

    /// Syncs what was appended.
    pub(super) fn sync(&mut self) -> Result<(), JobError> {
        let result = match &mut self.sink {
            Sink::File(file) => file.sync_data(),
            Sink::Stream(stream) => stream.flush(),
        };
        result.map_err(|source| self.error(source))?;
        self.unsynced = 0;
        self.synced_at = Instant::now();
        Ok(())
    }

    /// The file, if it is one.
    pub(super) fn file(&self) -> Option<&File> {
        match &self.sink {
            Sink::File(file) => Some(file),
            Sink::Stream(_) => None,
        }
    }

    pub(super) fn error(&self, source: io::Error) -> JobError {
        JobError::Write { path: self.name.clone(), source }
    }
}

/// A full disk must not leave half a line: what was written of it is taken back.
fn append_whole(file: &mut File, line: &[u8]) -> io::Result<()> {
    let before = io::Seek::stream_position(file)?;
    file.write_all(line).inspect_err(|_| {
        // If this fails too, the torn end is cut on resume.
        let _ = file.set_len(before);
    })
}
