//! What an earlier run left in the output, and the rewriting of outputs.

use super::lines::{Lines, RawLine};
use super::reply::line_of_id;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Longest result line that is read back; a longer one is done again.
const RESULT_BYTES_MAX: usize = 1 << 30;

/// Input lines already answered: one bit each.
#[derive(Clone, Debug, Default)]
pub(super) struct Prior {
    done: Vec<u64>,
    /// Answered.
    pub(super) ok: u64,
    /// Failed.
    pub(super) failed: u64,
}

impl Prior {
    pub(super) fn has(&self, line: u64) -> bool {
        let word = self.done.get((line / 64) as usize).copied().unwrap_or(0);
        word >> (line % 64) & 1 == 1
    }

    fn insert(&mut self, line: u64, failed: bool) {
        let word = (line / 64) as usize;
        if self.done.len() <= word {
            self.done.resize(word + 1, 0);
        }
        self.done[word] |= 1 << (line % 64);
        self.ok += u64::from(!failed);
        self.failed += u64::from(failed);
    }
}

/// Why an output can't be taken up.
#[derive(Debug)]
pub(super) enum PriorError {
    Io(io::Error),
    /// A line that this program did not write for this input.
    Foreign(String),
}

impl From<io::Error> for PriorError {
    fn from(error: io::Error) -> PriorError {
        PriorError::Io(error)
    }
}

/// Decides which lines of an output stay.
struct Filter {
    prior: Prior,
    lines_max: u64,
    retry_errors: bool,
}

impl Filter {
    /// Torn and unreadable lines go (they are done again), so do doubles and, with `retry_errors`,
    /// failures.
    fn keeps(&mut self, line: &RawLine) -> Result<bool, PriorError> {
        if line.is_cut() || !line.ended {
            return Ok(false);
        }
        let record = match serde_json::from_slice::<Record<'_>>(&line.bytes) {
            Ok(record) => record,
            Err(error) if error.is_data() => {
                return Err(PriorError::Foreign(format!("line {} is not a result", line.number)));
            }
            Err(_) => return Ok(false),
        };
        let Some(number) = line_of_id(&record.id).filter(|&number| number <= self.lines_max) else {
            let message = format!("line {} is the result of another input", line.number);
            return Err(PriorError::Foreign(message));
        };
        let failed = record.failed();
        if self.prior.has(number) || (failed && self.retry_errors) {
            return Ok(false);
        }
        self.prior.insert(number, failed);
        Ok(true)
    }
}

/// The part of a result line that is read back.
#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    response: Option<Status>,
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Status {
    status_code: u16,
}

impl Record<'_> {
    fn failed(&self) -> bool {
        self.error.is_some() || self.response.as_ref().is_none_or(|r| r.status_code != 200)
    }
}

/// Takes up an output that ends wherever a run was killed: cuts the torn end, drops what must be
/// done again. `lines_max` is the number of input lines. Returns the file, which is a new one (at
/// the same path, locked) if lines had to go.
pub(super) fn take_up(
    mut file: File,
    path: &Path,
    lines_max: u64,
    retry_errors: bool,
) -> Result<(File, Prior, Vec<File>), PriorError> {
    let filter = || Filter { prior: Prior::default(), lines_max, retry_errors };
    let mut first = filter();
    let (mut end, mut dropped) = (0, 0);
    file.rewind()?;
    let mut lines = Lines::new(BufReader::new(&file), RESULT_BYTES_MAX);
    while let Some(line) = lines.next_line()? {
        let keep = first.keeps(&line)?;
        if line.ended {
            end = lines.offset();
            dropped += u64::from(!keep);
        }
    }
    if dropped == 0 {
        file.set_len(end)?;
        file.seek(SeekFrom::End(0))?;
        return Ok((file, first.prior, Vec::new()));
    }
    tracing::info!("{}: {dropped} results are done again", path.display());
    file.rewind()?;
    let mut second = filter();
    let new = replace(path, &file, |out| {
        let mut lines = Lines::new(BufReader::new(&file), RESULT_BYTES_MAX);
        while let Some(line) = lines.next_line()? {
            if matches!(second.keeps(&line), Ok(true)) {
                out.write_all(&line.bytes)?;
                out.write_all(b"\n")?;
            }
        }
        Ok(())
    })?;
    Ok((new, second.prior, vec![file]))
}

/// Rewrites an output in the order of input lines. Holds 24 bytes per line. Returns the old file
/// (still locked) with the new one, or `None` if it was in order.
pub(super) fn put_in_order(mut file: &File, path: &Path) -> io::Result<Option<File>> {
    let mut index = Vec::new();
    file.rewind()?;
    let mut lines = Lines::new(BufReader::new(file), RESULT_BYTES_MAX);
    let mut start = 0;
    while let Some(line) = lines.next_line()? {
        let number = serde_json::from_slice::<Record<'_>>(&line.bytes);
        let number = number.ok().and_then(|record| line_of_id(&record.id)).unwrap_or(u64::MAX);
        index.push((number, start, lines.offset() - start));
        start = lines.offset();
    }
    drop(lines);
    if index.is_sorted() {
        return Ok(None);
    }
    index.sort_unstable();
    replace(path, file, |out| {
        let mut file = file;
        for &(_, start, length) in &index {
            file.seek(SeekFrom::Start(start))?;
            io::copy(&mut file.take(length), out)?;
        }
        Ok(())
    })
    .map(Some)
}

/// Replaces `path` in one step by what `fill` writes; the new file has the old one's permissions, is
/// locked before it gets its name, and stands at its end.
fn replace(
    path: &Path,
    old: &File,
    fill: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> io::Result<File> {
    let folder = folder_of(path);
    let temporary =
        tempfile::Builder::new().prefix(".forebay-").suffix(".tmp").tempfile_in(folder)?;
    // Best effort, as for the output itself: some file systems have no locks.
    let _ = temporary.as_file().try_lock();
    temporary.as_file().set_permissions(old.metadata()?.permissions())?;
    let mut out = BufWriter::new(temporary.as_file());
    fill(&mut out)?;
    out.flush()?;
    drop(out);
    temporary.as_file().sync_all()?;
    let mut file = temporary.persist(path).map_err(|error| error.error)?;
    sync_folder(folder);
    file.seek(SeekFrom::End(0))?;
    Ok(file)
}

/// The folder that `path` is in.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a rename last through a power cut; not every file system can, and none loses data by it.
pub(super) fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}
