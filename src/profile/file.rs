//! Files as the disk is measured with: aligned memory, positioned reads.

use crate::quant::IO_ALIGN;
use std::fs::File;
use std::io;

/// Memory that starts at a multiple of [`IO_ALIGN`].
pub(super) struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    pub(super) fn new(len: usize) -> Aligned {
        let memory = vec![0u8; len + IO_ALIGN];
        let start = memory.as_ptr().align_offset(IO_ALIGN).min(IO_ALIGN);
        Aligned { memory, start, len }
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// Fills `out` from `offset`.
#[cfg(unix)]
pub(super) fn read_at(file: &File, offset: u64, out: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

/// Fills `out` from `offset`.
#[cfg(windows)]
pub(super) fn read_at(file: &File, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
    while !out.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, out, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                offset += n as u64;
                out = &mut out[n..];
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{forget, free_bytes, set_direct};
    use std::io::Write;

    #[test]
    fn reads_give_the_same_bytes_whichever_way_they_go() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..3 * IO_ALIGN).map(|i| (i / 7) as u8).collect();
        file.write_all(&bytes).unwrap();
        file.sync_all().unwrap();
        forget(&file, 0, 0);
        let mut out = Aligned::new(2 * IO_ALIGN);
        assert!(out.bytes().as_ptr().addr().is_multiple_of(IO_ALIGN));
        for direct in [true, false] {
            if set_direct(&file, direct).is_ok() {
                out.bytes().fill(0);
                read_at(&file, IO_ALIGN as u64, out.bytes()).unwrap();
                assert_eq!(out.bytes(), &bytes[IO_ALIGN..], "direct: {direct}");
            }
        }
        assert!(read_at(&file, 2 * IO_ALIGN as u64, out.bytes()).is_err(), "past the end");
        assert!(free_bytes(&std::env::temp_dir()).is_none_or(|bytes| bytes > 0));
    }
}
