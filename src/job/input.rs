//! The prompt file: what it is, its fingerprint, its lines.

use super::JobError;
use super::limits::LINE_BYTES_MAX;
use super::lines::{BYTE_ORDER_MARK, Lines};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

const BUFFER_BYTES: usize = 1 << 20;

/// How files begin that are taken for prompts by mistake: each line of such bytes would get an error.
const NO_PROMPTS: [(&[u8], &str); 7] = [
    (b"GGUF\x02\0\0\0", "a GGUF model"),
    (b"GGUF\x03\0\0\0", "a GGUF model"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b\x08", "a gzip archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"\xff\xfe{\0", "text in UTF-16"),
    (b"PAR1\x15", "a Parquet table"),
];

/// Shapes of input lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputFormat {
    /// By the file's extension, else by its first line that is not blank.
    Auto,
    /// OpenAI Batch lines only: `custom_id`, `url` and `body` on each.
    Batch,
    /// JSON objects: Batch lines, `{"prompt"}` and `{"messages"}` lines, mixed.
    Jsonl,
    /// Each line is a prompt.
    Text,
}

impl InputFormat {
    /// As the command line spells them.
    pub const NAMES: [&str; 4] = ["auto", "batch", "jsonl", "text"];

    /// The format of that name.
    pub fn from_name(name: &str) -> Option<InputFormat> {
        let formats =
            [InputFormat::Auto, InputFormat::Batch, InputFormat::Jsonl, InputFormat::Text];
        let index = InputFormat::NAMES.iter().position(|&known| known == name)?;
        Some(formats[index])
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        InputFormat::NAMES[self as usize]
    }
}

/// Fingerprint of an input file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Length, bytes.
    pub bytes: u64,
    /// SHA-256, in hex.
    pub sha256: String,
    /// All lines.
    pub lines: u64,
    /// Lines that are not blank: what gets an answer.
    pub requests: u64,
}

/// An open input.
pub struct Input {
    name: String,
    path: Option<PathBuf>,
    format: InputFormat,
    digest: Option<Digest>,
    reader: Box<dyn BufRead>,
}

impl Input {
    /// Opens `path`, or standard input for `-`. A file is read once for its fingerprint; a pipe has
    /// none, and its job can't be resumed.
    pub fn open(path: &str, format: InputFormat) -> Result<Input, JobError> {
        if path == "-" {
            return Ok(Input {
                name: "standard input".to_string(),
                path: None,
                format,
                digest: None,
                reader: Box::new(BufReader::with_capacity(BUFFER_BYTES, io::stdin())),
            });
        }
        let fail = |source| JobError::Input { path: path.to_string(), source };
        let mut file = File::open(path).map_err(fail)?;
        let kind = file.metadata().map_err(fail)?.file_type();
        if kind.is_dir() {
            return Err(fail(io::ErrorKind::IsADirectory.into()));
        }
        // Outside Linux, what opens a descriptor of this process again shares its place in the file.
        let once = !cfg!(target_os = "linux") && path.starts_with("/dev/");
        let digest = if kind.is_file() && !once {
            let digest = scan(&mut file).map_err(fail)?;
            file.rewind().map_err(fail)?;
            Some(digest)
        } else {
            None
        };
        let extension = Path::new(path).extension().and_then(|extension| extension.to_str());
        let format = match (format, extension.map(str::to_ascii_lowercase).as_deref()) {
            (InputFormat::Auto, Some("jsonl" | "json" | "ndjson")) => InputFormat::Jsonl,
            (InputFormat::Auto, Some("txt" | "text")) => InputFormat::Text,
            (format, _) => format,
        };
        Ok(Input {
            name: path.to_string(),
            path: Some(PathBuf::from(path)),
            format,
            digest,
            reader: Box::new(BufReader::with_capacity(BUFFER_BYTES, file)),
        })
    }

    /// For messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file; `None` for standard input.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Shape of its lines, as far as the name and the caller tell.
    pub fn format(&self) -> InputFormat {
        self.format
    }

    /// Fingerprint, for files.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    pub(super) fn into_lines(self) -> Lines<Box<dyn BufRead>> {
        Lines::new(self.reader, LINE_BYTES_MAX)
    }
}

fn scan(file: &mut File) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    let mut digest = Digest { bytes: 0, sha256: String::new(), lines: 0, requests: 0 };
    let mut buffer = vec![0; BUFFER_BYTES];
    let (mut blank, mut ended, mut length) = (true, true, 0);
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if let Some((_, what)) =
            NO_PROMPTS.iter().find(|(magic, _)| buffer[..count].starts_with(magic))
            && digest.bytes == 0
        {
            let why = format!("it is {what}; prompts are lines of UTF-8");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        hash.update(&buffer[..count]);
        let mark = if digest.bytes == 0 && buffer.starts_with(BYTE_ORDER_MARK) { 3 } else { 0 };
        digest.bytes += count as u64;
        (ended, length) = (ended && mark == 0, length + mark);
        for &byte in &buffer[mark..count] {
            ended = byte == b'\n';
            if ended {
                digest.lines += 1;
                digest.requests += u64::from(!blank);
                (blank, length) = (true, 0);
                continue;
            }
            length += 1;
            // As `RawLine::is_blank` has it: what is too long gets an error for an answer.
            blank &= byte.is_ascii_whitespace() && length <= LINE_BYTES_MAX;
        }
    }
    digest.lines += u64::from(!ended);
    digest.requests += u64::from(!blank);
    for byte in hash.finalize() {
        write!(digest.sha256, "{byte:02x}").expect("writing to a string");
    }
    Ok(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_fingerprinted_and_their_format_guessed() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
        std::fs::write(path("a.jsonl"), "{}\n\n \r\nx").unwrap();
        let input = Input::open(&path("a.jsonl"), InputFormat::Auto).unwrap();
        assert_eq!(input.format(), InputFormat::Jsonl);
        let digest = input.digest().unwrap();
        assert_eq!((digest.bytes, digest.lines, digest.requests), (8, 4, 2));
        std::fs::write(path("b.TXT"), "").unwrap();
        let input = Input::open(&path("b.TXT"), InputFormat::Auto).unwrap();
        assert_eq!(input.format(), InputFormat::Text);
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(input.digest().unwrap().sha256, empty);
        let input = Input::open(&path("b.TXT"), InputFormat::Batch).unwrap();
        assert_eq!(input.format(), InputFormat::Batch);
        // What is too long is no blank line, and a mark is no text: as lines are answered.
        let blanks = " ".repeat(LINE_BYTES_MAX);
        for (text, lines, requests) in [
            ("\u{feff}\nx\n".to_string(), 2, 1),
            ("\u{feff}".to_string(), 1, 0),
            (format!("{blanks}\nx"), 2, 1),
            (format!("{blanks} \nx"), 2, 2),
        ] {
            std::fs::write(path("c.txt"), text).unwrap();
            let input = Input::open(&path("c.txt"), InputFormat::Auto).unwrap();
            let digest = input.digest().unwrap();
            assert_eq!((digest.lines, digest.requests), (lines, requests));
            let mut read = input.into_lines();
            let all = std::iter::from_fn(|| read.next_line().unwrap());
            assert_eq!(all.filter(|line| !line.is_blank()).count() as u64, requests);
        }
    }

    #[test]
    fn folders_and_missing_files_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap().to_string();
        assert!(matches!(Input::open(&path, InputFormat::Auto), Err(JobError::Input { .. })));
        let missing = format!("{path}/none.jsonl");
        let Err(error) = Input::open(&missing, InputFormat::Auto) else { panic!() };
        assert!(error.to_string().contains("none.jsonl"), "{error}");
        let model = format!("{path}/model.txt");
        std::fs::write(&model, b"GGUF\x03\0\0\0").unwrap();
        let Err(error) = Input::open(&model, InputFormat::Text) else { panic!() };
        assert!(error.to_string().contains("model.txt: it is a GGUF model"), "{error}");
    }
}
