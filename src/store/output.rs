//! A new file, written once from front to back: past the page cache where the system allows it, so that
//! writing a large file pushes nothing else out of memory.

use super::disk::{pwrite, set_direct};
use crate::quant::IO_ALIGN;
use std::fs::File;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

/// Bytes that are written at once. There are two such buffers: one is filled while the other is written.
const BUFFER_BYTES: usize = 4 << 20;
/// Through the page cache, bytes between two syncs: unwritten pages must not pile up.
const SYNC_BYTES: usize = 64 << 20;

/// Takes bytes in order and has another thread write them.
#[derive(Debug)]
pub struct FileSink {
    file: File,
    current: Buffer,
    written: u64,
    /// Buffers to the writing thread and back; `None` once that thread has ended.
    worker: Option<Worker>,
}

#[derive(Debug)]
struct Worker {
    full: SyncSender<Buffer>,
    empty: Receiver<Buffer>,
    thread: JoinHandle<io::Result<()>>,
}

/// Bytes at a multiple of [`IO_ALIGN`] within a vector that is a little longer.
#[derive(Debug)]
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    fn new() -> Buffer {
        let bytes = vec![0; BUFFER_BYTES + IO_ALIGN];
        let start = bytes.as_ptr().align_offset(IO_ALIGN).min(IO_ALIGN);
        Buffer { bytes, start, len: 0 }
    }

    /// Takes as many of `bytes` as there is room for; returns how many.
    fn put(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(BUFFER_BYTES - self.len);
        self.bytes[self.start + self.len..][..count].copy_from_slice(&bytes[..count]);
        self.len += count;
        count
    }

    fn filled(&self) -> &[u8] {
        &self.bytes[self.start..][..self.len]
    }
}

impl FileSink {
    /// Writes to the start of `file`, which nobody else writes to.
    pub fn new(file: &File) -> io::Result<FileSink> {
        let (full, due) = sync_channel::<Buffer>(1);
        let (back, empty) = sync_channel(2);
        back.try_send(Buffer::new()).expect("the channel has room");
        let shared = file.try_clone()?;
        let thread = thread::Builder::new().name("forebay-write".to_string()).spawn(move || {
            let mut output =
                Output { direct: set_direct(&shared, true).is_ok(), file: shared, unsynced: 0 };
            let mut offset = 0;
            for mut buffer in due {
                output.write(buffer.filled(), offset)?;
                offset += buffer.len as u64;
                buffer.len = 0;
                // The other side may have all that it wants.
                let _ = back.try_send(buffer);
            }
            Ok(())
        })?;
        let worker = Some(Worker { full, empty, thread });
        Ok(FileSink { file: file.try_clone()?, current: Buffer::new(), written: 0, worker })
    }

    /// Writes what is left, ends the file there, and waits until it is on the disk.
    pub fn finish(mut self) -> io::Result<()> {
        let padding = self.current.len.next_multiple_of(IO_ALIGN) - self.current.len;
        self.current.put(&[0; IO_ALIGN][..padding]);
        self.hand_over()?;
        self.join()?;
        self.file.set_len(self.written)?;
        self.file.sync_all()
    }

    /// Gives the current buffer to the writing thread and takes the other, as soon as it is free.
    fn hand_over(&mut self) -> io::Result<()> {
        let Some(worker) = &self.worker else { return Err(ended()) };
        let next = match worker.empty.recv() {
            Ok(next) => next,
            Err(_) => return Err(self.join().err().unwrap_or_else(ended)),
        };
        let full = std::mem::replace(&mut self.current, next);
        match worker.full.send(full) {
            Ok(()) => Ok(()),
            Err(_) => Err(self.join().err().unwrap_or_else(ended)),
        }
    }

    /// Waits for the writing thread to end.
    fn join(&mut self) -> io::Result<()> {
        let Some(Worker { full, thread, .. }) = self.worker.take() else { return Ok(()) };
        drop(full);
        thread.join().unwrap_or_else(|_| Err(ended()))
    }
}

fn ended() -> io::Error {
    io::Error::other("the thread that writes has ended")
}

impl Write for FileSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.current.len == BUFFER_BYTES {
            self.hand_over()?;
        }
        let count = self.current.put(bytes);
        self.written += count as u64;
        Ok(count)
    }

    /// Does nothing: [`FileSink::finish`] writes the last bytes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for FileSink {
    fn drop(&mut self) {
        if let Err(error) = self.join() {
            tracing::debug!(%error, "an unfinished file");
        }
    }
}

/// The file, as the writing thread has it.
struct Output {
    file: File,
    /// Whether transfers go past the page cache.
    direct: bool,
    unsynced: usize,
}

impl Output {
    fn write(&mut self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        self.unsynced += bytes.len();
        while !bytes.is_empty() {
            match pwrite(&self.file, offset, bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    bytes = &bytes[count..];
                    offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Not on this file system, or a short transfer lost the alignment.
                Err(error) if self.direct && error.kind() == io::ErrorKind::InvalidInput => {
                    set_direct(&self.file, false)?;
                    self.direct = false;
                }
                Err(error) => return Err(error),
            }
        }
        if !self.direct && self.unsynced >= SYNC_BYTES {
            self.file.sync_data()?;
            self.unsynced = 0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at / 251 + at) as u8).collect()
    }

    /// Files of lengths around those of pages and buffers, given in pieces of any size.
    #[test]
    fn what_is_given_is_in_the_file() {
        for len in [0, 1, 4096, 5000, BUFFER_BYTES - 1, BUFFER_BYTES, 3 * BUFFER_BYTES + 17] {
            let file = tempfile::NamedTempFile::new().expect("a file");
            let mut sink = FileSink::new(file.as_file()).expect("starts");
            let want = bytes(len);
            for piece in want.chunks(99_991) {
                sink.write_all(piece).expect("writes");
            }
            sink.finish().expect("finishes");
            assert!(std::fs::read(file.path()).expect("reads") == want, "{len}");
        }
    }

    #[test]
    fn the_error_of_the_disk_is_told() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let read_only = File::open(file.path()).expect("opens");
        let mut sink = FileSink::new(&read_only).expect("starts");
        let written = sink.write_all(&bytes(5 * BUFFER_BYTES)).and_then(|()| sink.finish());
        let error = written.expect_err("read-only").to_string();
        assert!(!error.contains("thread"), "{error}");
    }
}
