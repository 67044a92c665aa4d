//! Lines of a file, bounded.

use std::io::{self, BufRead};

/// Bytes kept of a line that is too long: enough to find its custom_id.
const PREFIX_BYTES: usize = 4096;

/// How some programs begin a file of UTF-8.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// One line without its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawLine {
    /// Counted from 1.
    pub(super) number: u64,
    /// The bytes, or only the first of them if the line is longer than the limit.
    pub(super) bytes: Vec<u8>,
    /// Length in the file, line end not counted.
    pub(super) length: u64,
    /// Whether a line end followed; false for the last line of a file that was torn.
    pub(super) ended: bool,
}

impl RawLine {
    /// Whether the line was longer than the limit and only its start is here.
    pub(super) fn is_cut(&self) -> bool {
        self.length > self.bytes.len() as u64
    }

    /// Whether there is nothing but white space.
    pub(super) fn is_blank(&self) -> bool {
        !self.is_cut() && self.bytes.trim_ascii().is_empty()
    }
}

/// Reads lines of at most `limit` bytes; longer ones come as their first bytes, never whole.
pub(super) struct Lines<R> {
    reader: R,
    number: u64,
    limit: usize,
    offset: u64,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(reader: R, limit: usize) -> Lines<R> {
        Lines { reader, number: 0, limit, offset: 0 }
    }

    /// Bytes read so far: where the next line starts.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next line, or `None` at the end. Retries interrupted reads.
    pub(super) fn next_line(&mut self) -> io::Result<Option<RawLine>> {
        let mut line = RawLine { number: 0, bytes: Vec::new(), length: 0, ended: false };
        let mut any = false;
        loop {
            let available = match self.reader.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if available.is_empty() {
                break;
            }
            any = true;
            let end = available.iter().position(|&byte| byte == b'\n');
            let taken = &available[..end.unwrap_or(available.len())];
            line.length += taken.len() as u64;
            if line.length <= self.limit as u64 {
                line.bytes.extend_from_slice(taken);
            } else if line.bytes.len() != PREFIX_BYTES.min(self.limit) {
                shorten(&mut line.bytes, taken, PREFIX_BYTES.min(self.limit));
            }
            let used = taken.len() + usize::from(end.is_some());
            self.reader.consume(used);
            self.offset += used as u64;
            if end.is_some() {
                line.ended = true;
                break;
            }
        }
        if !any {
            return Ok(None);
        }
        self.number += 1;
        line.number = self.number;
        if !line.is_cut() {
            strip(&mut line);
        }
        Ok(Some(line))
    }
}

/// Keeps the first `keep` bytes of `bytes` followed by `more`, and gives the rest of the memory back.
fn shorten(bytes: &mut Vec<u8>, more: &[u8], keep: usize) {
    let missing = keep.saturating_sub(bytes.len()).min(more.len());
    bytes.extend_from_slice(&more[..missing]);
    bytes.truncate(keep);
    bytes.shrink_to_fit();
}

/// Drops the `\r` of a Windows line end, and a byte order mark before the first line.
fn strip(line: &mut RawLine) {
    if line.ended && line.bytes.last() == Some(&b'\r') {
        line.bytes.pop();
    }
    if line.number == 1 && line.bytes.starts_with(BYTE_ORDER_MARK) {
        line.bytes.drain(..BYTE_ORDER_MARK.len());
    }
    line.length = line.bytes.len() as u64;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], limit: usize) -> Vec<RawLine> {
        // A tiny buffer, so that lines span refills.
        let mut lines = Lines::new(io::BufReader::with_capacity(3, bytes), limit);
        std::iter::from_fn(|| lines.next_line().unwrap()).collect()
    }

    #[test]
    fn lines_are_split_and_numbered() {
        let lines = read(b"\xEF\xBB\xBFone\r\n\n  \ntwo", 100);
        let texts: Vec<_> = lines.iter().map(|line| line.bytes.as_slice()).collect();
        assert_eq!(texts, [b"one".as_slice(), b"", b"  ", b"two"]);
        assert_eq!(lines[3].number, 4);
        assert!(lines[0].ended && !lines[3].ended);
        assert!(lines[1].is_blank() && lines[2].is_blank() && !lines[3].is_blank());
        assert!(read(b"", 100).is_empty());
    }

    #[test]
    fn long_lines_keep_only_their_start() {
        let lines = read(b"0123456789abcdef\nok\n", 8);
        assert!(lines[0].is_cut() && lines[0].length == 16 && lines[0].bytes == b"01234567");
        assert_eq!(lines[1].bytes, b"ok");
        let long = [vec![b'x'; 100_000], b"\n{}".to_vec()].concat();
        let lines = read(&long, 50_000);
        assert!(lines[0].is_cut() && lines[0].bytes.capacity() <= 2 * PREFIX_BYTES);
        assert_eq!((lines[0].length, lines[1].bytes.as_slice()), (100_000, b"{}".as_slice()));
    }
}
