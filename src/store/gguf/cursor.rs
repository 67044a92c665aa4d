//! Reads little-endian values front to back; no length is believed before it was compared with what is
//! left of the file.

use crate::store::error::StoreError;
use crate::store::source::Source;

/// Bytes fetched at once.
const WINDOW: usize = 1 << 20;

pub(super) struct Cursor<'a> {
    source: &'a dyn Source,
    path: &'a str,
    window: Vec<u8>,
    /// File offset of the next byte.
    at: u64,
    /// Index of the next byte in `window`.
    next: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(source: &'a dyn Source, path: &'a str) -> Cursor<'a> {
        Cursor { source, path, window: Vec::new(), at: 0, next: 0 }
    }

    pub(super) fn path(&self) -> &'a str {
        self.path
    }

    /// File offset of the next byte.
    pub(super) fn position(&self) -> u64 {
        self.at
    }

    /// Bytes between here and the end of the file.
    pub(super) fn left(&self) -> u64 {
        self.source.size().saturating_sub(self.at)
    }

    /// An error at this place of the file.
    pub(super) fn wrong(&self, what: &str, expected: String, found: impl ToString) -> StoreError {
        let at = format!("{what} at byte {}", self.at);
        StoreError::malformed(self.path, at, expected, found)
    }

    /// Checks that `count` items of at least `bytes` each can still follow.
    pub(super) fn room_for(&self, what: &str, count: u64, bytes: u64) -> Result<usize, StoreError> {
        let most = self.left() / bytes.max(1);
        match usize::try_from(count) {
            Ok(n) if count <= most => Ok(n),
            _ => Err(self.wrong(what, format!("a count of at most {most} (to the end)"), count)),
        }
    }

    /// Appends `len` bytes to `out`; `len` must have passed [`Cursor::room_for`].
    pub(super) fn bytes(
        &mut self,
        what: &str,
        len: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        if len as u64 > self.left() {
            return Err(self.wrong(what, format!("{len} more bytes"), self.left()));
        }
        let mut wanted = len;
        while wanted > 0 {
            if self.next == self.window.len() {
                self.refill()?;
            }
            let take = wanted.min(self.window.len() - self.next);
            out.extend_from_slice(&self.window[self.next..self.next + take]);
            self.next += take;
            self.at += take as u64;
            wanted -= take;
        }
        Ok(())
    }

    fn refill(&mut self) -> Result<(), StoreError> {
        let len = self.left().min(WINDOW as u64) as usize;
        self.window.resize(len, 0);
        self.next = 0;
        self.source.read_at(self.at, &mut self.window).map_err(|source| StoreError::Io {
            path: self.path.to_string(),
            action: "read the header",
            source,
        })
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], StoreError> {
        let mut out = [0; N];
        if let Some(bytes) = self.window.get(self.next..self.next + N) {
            out.copy_from_slice(bytes);
            self.next += N;
            self.at += N as u64;
            return Ok(out);
        }
        let mut bytes = Vec::with_capacity(N);
        self.bytes(what, N, &mut bytes)?;
        out.copy_from_slice(&bytes);
        Ok(out)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, StoreError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, StoreError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A string of at most `most` bytes, which must be UTF-8.
    pub(super) fn string(&mut self, what: &str, most: u64) -> Result<String, StoreError> {
        let start = self.at;
        let len = self.u64(what)?;
        if len > most {
            return Err(self.wrong(what, format!("a length of at most {most} bytes"), len));
        }
        let len = self.room_for(what, len, 1)?;
        let mut bytes = Vec::with_capacity(len);
        self.bytes(what, len, &mut bytes)?;
        String::from_utf8(bytes).map_err(|e| {
            let at = format!("{what} at byte {start}");
            StoreError::malformed(self.path, at, "UTF-8 text", e.utf8_error())
        })
    }
}
