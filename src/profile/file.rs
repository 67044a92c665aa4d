//! Positioned reads of a file that is not opened by its name.

use std::fs::File;
use std::io;

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
    use crate::quant::IO_ALIGN;
    use crate::store::{AlignedBuffer, forget, free_bytes, set_direct};
    use std::io::Write;

    #[test]
    fn reads_give_the_same_bytes_whichever_way_they_go() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..3 * IO_ALIGN).map(|i| (i / 7) as u8).collect();
        file.write_all(&bytes).unwrap();
        file.sync_all().unwrap();
        forget(&file, 0, 0);
        let mut out = AlignedBuffer::new(2 * IO_ALIGN).unwrap();
        for direct in [true, false] {
            if set_direct(&file, direct).is_ok() {
                out.fill(0);
                read_at(&file, IO_ALIGN as u64, &mut out).unwrap();
                assert_eq!(out[..], bytes[IO_ALIGN..], "direct: {direct}");
            }
        }
        assert!(read_at(&file, 2 * IO_ALIGN as u64, &mut out).is_err(), "past the end");
        assert!(free_bytes(&std::env::temp_dir()).is_none_or(|bytes| bytes > 0));
    }
}
