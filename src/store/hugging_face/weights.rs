//! Safetensors files and their index.

use crate::quant::DType;
use crate::store::error::{DAMAGED, StoreError};
use crate::store::files::{Place, TensorInfo, TensorListing};
use crate::store::source::{FileSource, Source};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::path::{Component, Path, PathBuf};

/// Longest header, bytes (the format's own bound).
const HEADER_MAX: u64 = 100_000_000;
/// Longest vocabulary and index, bytes.
pub(super) const LARGE_MAX: u64 = 256 << 20;
/// Longest of all other files that are read whole, bytes: parsed JSON takes many times as many.
pub(super) const SMALL_MAX: u64 = 16 << 20;

/// A tensor of a safetensors file.
pub(super) struct Entry {
    pub(super) source: usize,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Bytes from the start of the file.
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// The weight files of a folder, opened, headers read.
pub(super) struct Weights {
    pub(super) sources: Vec<Box<dyn Source>>,
    /// Length of each file's header with its length field.
    pub(super) header_lens: Vec<u64>,
    pub(super) paths: Vec<PathBuf>,
    pub(super) tensors: HashMap<String, Entry>,
}

/// Reads a file of `most` bytes or fewer; `None` where there is none.
pub(super) fn read_file(path: &Path, most: u64) -> Result<Option<Vec<u8>>, StoreError> {
    if !path.exists() {
        return Ok(None);
    }
    let io = |action| move |e| StoreError::io(path, action, e);
    let source = FileSource::open(path).map_err(io("open the file"))?;
    if source.size() > most {
        let expected = format!("at most {most} bytes");
        let path = path.display().to_string();
        return Err(StoreError::malformed(&path, "length", expected, source.size()));
    }
    let mut bytes = vec![0; source.size() as usize];
    source.read_at(0, &mut bytes).map_err(io("read the file"))?;
    Ok(Some(bytes))
}

/// Reads a JSON file of `most` bytes or fewer; `None` where there is none.
pub(super) fn read_json(path: &Path, most: u64) -> Result<Option<Value>, StoreError> {
    let Some(bytes) = read_file(path, most)? else { return Ok(None) };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| StoreError::malformed(&path.display().to_string(), "content", "valid JSON", e))
}

impl Weights {
    /// Opens `model.safetensors`, or where there is none, every file that `model.safetensors.index.json` names:
    /// a model that was merged or saved anew may have its old index beside it.
    pub(super) fn open(folder: &Path) -> Result<Weights, StoreError> {
        const WHOLE: &str = "model.safetensors";
        let index = folder.join("model.safetensors.index.json");
        let parts = if folder.join(WHOLE).exists() { None } else { read_json(&index, LARGE_MAX)? };
        let names = match parts {
            Some(index_json) => file_names(&index, &index_json)?,
            None => BTreeSet::from([WHOLE.to_string()]),
        };
        let missing: Vec<&str> =
            names.iter().map(String::as_str).filter(|name| !folder.join(name).exists()).collect();
        if !missing.is_empty() {
            return Err(StoreError::MissingParts {
                path: folder.display().to_string(),
                count: names.len(),
                missing: missing.join(", "),
            });
        }
        let mut weights = Weights {
            sources: Vec::new(),
            header_lens: Vec::new(),
            paths: Vec::new(),
            tensors: HashMap::new(),
        };
        for name in names {
            weights.add(folder.join(name))?;
        }
        Ok(weights)
    }

    fn add(&mut self, path: PathBuf) -> Result<(), StoreError> {
        let shown = path.display().to_string();
        let source =
            FileSource::open(&path).map_err(|e| StoreError::io(&path, "open the file", e))?;
        let (header_len, metadata) = read_header(&source, &shown)?;
        for (name, info) in metadata.tensors() {
            let (start, end) = info.data_offsets;
            let entry = Entry {
                source: self.sources.len(),
                dtype: info.dtype,
                shape: info.shape.clone(),
                offset: header_len + start as u64,
                bytes: (end - start) as u64,
            };
            let at = format!("tensor `{name}`");
            if let Some(other) = self.tensors.insert(name, entry) {
                let found = format!("it in {} too", self.paths[other.source].display());
                return Err(StoreError::malformed(&shown, at, "every name once", found));
            }
        }
        self.sources.push(Box::new(source));
        self.header_lens.push(header_len);
        self.paths.push(path);
        Ok(())
    }

    /// Where the tensor `name` is, if the files have it.
    pub(super) fn place(&self, name: &str) -> Result<Option<Place>, StoreError> {
        let Some(entry) = self.tensors.get(name) else { return Ok(None) };
        let dtype = match entry.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => {
                return Err(StoreError::TensorType {
                    path: self.paths[entry.source].display().to_string(),
                    tensor: name.to_string(),
                    found: other.to_string(),
                });
            }
        };
        let (cols, outer) = entry.shape.split_last().map_or((1, &[][..]), |(c, o)| (*c, o));
        let rows = outer.iter().fold(1usize, |rows, &n| rows.saturating_mul(n));
        let info = TensorInfo { dtype, rows, cols };
        let (source, offset) = (entry.source, entry.offset);
        Ok(Some(Place { info, source, offset, name: name.to_string() }))
    }

    /// Every tensor in the order of files and data.
    pub(super) fn listing(&self, used: impl Fn(&str) -> bool) -> Vec<TensorListing> {
        let mut entries: Vec<_> = self.tensors.iter().collect();
        entries.sort_by_key(|(name, entry)| (entry.source, entry.offset, name.as_str()));
        let list = |(name, entry): (&String, &Entry)| TensorListing {
            name: name.clone(),
            dtype: entry.dtype.to_string(),
            shape: entry.shape.iter().map(|&n| n as u64).collect(),
            bytes: entry.bytes,
            used: used(name),
        };
        entries.into_iter().map(list).collect()
    }
}

/// The files named by an index: plain names only, so that a hostile index cannot reach elsewhere.
fn file_names(path: &Path, index: &Value) -> Result<BTreeSet<String>, StoreError> {
    let wrong = |expected: &str, found: &str| {
        let path = path.display().to_string();
        StoreError::malformed(&path, "key `weight_map`", expected, found)
    };
    let map = index.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| wrong("an object from tensors to files", "something else"))?;
    let mut names = BTreeSet::new();
    for name in map.values() {
        let name = name.as_str().ok_or_else(|| wrong("names of files", "something else"))?;
        let mut parts = Path::new(name).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        if !plain {
            return Err(wrong("names of files in the same folder", name));
        }
        names.insert(name.to_string());
    }
    if names.is_empty() {
        return Err(wrong("at least one tensor", "none"));
    }
    Ok(names)
}

/// Reads and checks a header; returns where the data begins.
fn read_header(source: &dyn Source, path: &str) -> Result<(u64, Metadata), StoreError> {
    let io = |e| StoreError::Io { path: path.to_string(), action: "read the header", source: e };
    let wrong = |at: &str, expected: String, found: String| StoreError::Malformed {
        path: path.to_string(),
        at: at.into(),
        expected,
        found,
        remedy: DAMAGED,
    };
    let mut len = [0; 8];
    if source.size() < 8 {
        return Err(wrong("length", "at least 8 bytes".into(), source.size().to_string()));
    }
    source.read_at(0, &mut len).map_err(io)?;
    let len = u64::from_le_bytes(len);
    let most = HEADER_MAX.min(source.size() - 8);
    if len > most {
        let expected = format!("a header of at most {most} bytes");
        return Err(wrong("first eight bytes", expected, len.to_string()));
    }
    let mut json = vec![0; len as usize];
    source.read_at(8, &mut json).map_err(io)?;
    // Deserialising checks that tensors follow each other without gaps and are as long as their
    // shapes.
    let metadata: Metadata = serde_json::from_slice(&json)
        .map_err(|e| wrong("header", "a valid safetensors header".into(), e.to_string()))?;
    let end = metadata.tensors().values().map(|info| info.data_offsets.1 as u64).max().unwrap_or(0);
    let left = source.size() - 8 - len;
    if end != left {
        let expected = format!("{end} bytes of data, by the header");
        return Err(wrong("data section", expected, left.to_string()));
    }
    Ok((8 + len, metadata))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemorySource;
    use proptest::prelude::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    fn read(bytes: Vec<u8>) -> Result<(u64, Metadata), String> {
        read_header(&MemorySource(bytes), "test.safetensors").map_err(|e| e.to_string())
    }

    const HEADER: &str = r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#;

    #[test]
    fn headers_are_checked_against_the_file() {
        assert!(read(file(HEADER, 16)).is_ok());
        assert!(read(file(HEADER, 15)).expect_err("short").contains("16 bytes of data"));
        assert!(read(file(HEADER, 17)).is_err());
        let mut huge = file(HEADER, 16);
        huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(read(huge).expect_err("huge").contains("a header of at most"));
        let lie = HEADER.replace("[2,2]", "[2,3]");
        assert!(read(file(&lie, 16)).is_err());
    }

    #[test]
    fn an_index_cannot_reach_outside_the_folder() {
        for name in ["../x.safetensors", "/etc/passwd", "a/b.safetensors", ""] {
            let index = serde_json::json!({"weight_map": {"a": name}});
            assert!(file_names(Path::new("index.json"), &index).is_err(), "{name}");
        }
    }

    /// Files with holes take no disk.
    #[test]
    fn what_is_read_whole_is_bounded() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config.json");
        assert!(read_json(&path, SMALL_MAX).expect("no file").is_none());
        let file = std::fs::File::create(&path).expect("made");
        file.set_len(SMALL_MAX + 1).expect("longer");
        let error = read_json(&path, SMALL_MAX).expect_err("too long").to_string();
        assert!(error.contains("config.json: length: expected at most 16777216 bytes"), "{error}");
        std::fs::write(&path, "{}").expect("written");
        assert!(read_json(&path, SMALL_MAX).expect("readable").is_some());
    }

    proptest! {
        #[test]
        fn damaged_headers_never_panic(
            at: prop::sample::Index,
            byte: u8,
            cut: prop::sample::Index,
        ) {
            let mut bytes = file(HEADER, 16);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = read(bytes.clone());
            bytes.truncate(cut.index(bytes.len()));
            let _ = read(bytes);
        }
    }
}
