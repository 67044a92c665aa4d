//! A GGUF model in one file or in parts: which tensor lies where.

use super::error::StoreError;
use super::gguf::{GgufHeader, GgufTensor};
use super::source::{FileSource, Source};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Most parts a model may have: the file names have five digits.
const PARTS_MAX: usize = 99_999;

/// The files of a GGUF model, opened, headers read.
pub(super) struct GgufParts {
    /// Paths, sources and headers; the first holds the metadata.
    pub(super) parts: Vec<(PathBuf, Box<dyn Source>, GgufHeader)>,
}

impl GgufParts {
    /// Opens the file at `path` and, if it is part of a split model, all its siblings.
    pub(super) fn open(path: &Path) -> Result<GgufParts, StoreError> {
        let paths = part_paths(path)?;
        let mut parts = Vec::with_capacity(paths.len());
        for part in paths {
            let source =
                FileSource::open(&part).map_err(|e| StoreError::io(&part, "open the file", e))?;
            let header = GgufHeader::read(&source, &part.display().to_string())?;
            parts.push((part, Box::new(source) as Box<dyn Source>, header));
        }
        let parts = GgufParts { parts };
        parts.check_split()?;
        Ok(parts)
    }

    /// The header with the metadata.
    pub(super) fn header(&self) -> &GgufHeader {
        &self.parts[0].2
    }

    /// Every tensor with the index of its part.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (usize, &GgufTensor)> {
        let numbered = self.parts.iter().enumerate();
        numbered.flat_map(|(part, (_, _, header))| header.tensors.iter().map(move |t| (part, t)))
    }

    /// The keys `split.*` must agree with the file names, and names must be unique over all parts.
    fn check_split(&self) -> Result<(), StoreError> {
        let shown = |part: usize| self.parts[part].0.display().to_string();
        for (index, (_, _, header)) in self.parts.iter().enumerate() {
            for (key, expected) in [("split.count", self.parts.len()), ("split.no", index)] {
                let found = header.get(key).and_then(|v| v.as_u64());
                // A lone file may have been merged without dropping the keys.
                let single = self.parts.len() == 1 && found == Some(0);
                if let Some(found) = found
                    && found != expected as u64
                    && !single
                {
                    let at = format!("key `{key}`");
                    let expected = format!("{expected}, by the file name");
                    return Err(StoreError::malformed(&shown(index), at, expected, found));
                }
            }
        }
        let mut seen = HashMap::new();
        for (part, tensor) in self.tensors() {
            if let Some(other) = seen.insert(tensor.name.as_str(), part) {
                let at = format!("tensor `{}`", tensor.name);
                let found = format!("it in {} too", shown(other));
                return Err(StoreError::malformed(&shown(part), at, "every name once", found));
            }
        }
        let total = self.header().get("split.tensors.count").and_then(|v| v.as_u64());
        match total {
            Some(total) if self.parts.len() > 1 && total != seen.len() as u64 => {
                let at = "key `split.tensors.count`";
                let found = format!("{} tensors in all parts", seen.len());
                Err(StoreError::malformed(&shown(0), at, format!("{total} tensors"), found))
            }
            _ => Ok(()),
        }
    }
}

/// `NAME-00002-of-00003.gguf` taken apart: the name, the part's number, how many there are.
pub(super) fn split_name(file_name: &str) -> Option<(&str, usize, usize)> {
    let stem = file_name.strip_suffix(".gguf")?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (name, number) = rest.rsplit_once('-')?;
    let five_digits = |s: &str| s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit());
    if !five_digits(count) || !five_digits(number) {
        return None;
    }
    let count = count.parse().ok().filter(|n| (1..=PARTS_MAX).contains(n))?;
    Some((name, number.parse().ok()?, count))
}

/// All parts of the model that the file at `path` belongs to, in order.
fn part_paths(path: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let file_name = path.file_name().and_then(|name| name.to_str());
    let Some((name, _, count)) = file_name.and_then(split_name) else {
        return Ok(vec![path.to_path_buf()]);
    };
    let part = |no: usize| path.with_file_name(format!("{name}-{no:05}-of-{count:05}.gguf"));
    let missing: Vec<usize> = (1..=count).filter(|&no| !part(no).exists()).collect();
    if missing.is_empty() {
        return Ok((1..=count).map(part).collect());
    }
    let mut names: Vec<String> =
        missing.iter().take(8).map(|no| format!("{name}-{no:05}-of-{count:05}.gguf")).collect();
    if missing.len() > names.len() {
        names.push(format!("and {} more", missing.len() - names.len()));
    }
    let path = path.display().to_string();
    Err(StoreError::MissingParts { path, count, missing: names.join(", ") })
}
