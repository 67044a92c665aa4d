//! The header of one GGUF file.

use super::Value;
use super::cursor::Cursor;
use crate::quant::DType;
use crate::store::error::{DAMAGED, StoreError};
use crate::store::source::Source;
use std::collections::{HashMap, HashSet};

/// Longest key, bytes (format document).
const KEY_MAX: u64 = 65_535;
/// Longest tensor name, bytes; the format document says 64, newer converters stretch it.
const NAME_MAX: u64 = 255;
/// Largest alignment of the data section.
const ALIGNMENT_MAX: u64 = 1 << 20;

/// A tensor's entry in a header.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufTensor {
    /// Name, as `blk.0.attn_q.weight`.
    pub name: String,
    /// Sizes, innermost first.
    pub dims: Vec<u64>,
    /// ggml type id.
    pub type_id: u32,
    /// Where the data begins, bytes from the start of the file.
    pub offset: u64,
    /// Length of the data; 0 where the type is unknown.
    pub bytes: u64,
}

impl GgufTensor {
    /// The element type, if forebay computes with it.
    pub fn dtype(&self) -> Option<DType> {
        DType::from_gguf_id(self.type_id)
    }

    /// Rows and columns; a vector has one row, outer dimensions are rows.
    pub fn shape(&self) -> (usize, usize) {
        let cols = self.dims.first().copied().unwrap_or(1);
        (self.dims.iter().skip(1).product::<u64>() as usize, cols as usize)
    }

    /// Name of the element type, also of those forebay does not compute with.
    pub fn type_name(&self) -> String {
        self.dtype().map_or_else(|| foreign_type(self.type_id), |t| t.to_string())
    }
}

/// Everything before the data section.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufHeader {
    /// Format version, 2 or 3.
    pub version: u32,
    /// Keys and values, in file order.
    pub metadata: Vec<(String, Value)>,
    /// Tensors, in file order.
    pub tensors: Vec<GgufTensor>,
    /// Where the data section begins.
    pub data_at: u64,
    by_key: HashMap<String, usize>,
}

impl GgufHeader {
    /// Reads and checks a header; `path` names the file in errors.
    ///
    /// Memory stays within a small multiple of the file's length whatever the bytes say.
    pub fn read(source: &dyn Source, path: &str) -> Result<GgufHeader, StoreError> {
        let mut cursor = Cursor::new(source, path);
        let version = read_magic(&mut cursor)?;
        let tensor_count = cursor.u64("number of tensors")?;
        let key_count = cursor.u64("number of metadata keys")?;
        // A key takes 8 + 4 + 1 bytes at least, a tensor 8 + 4 + 8 + 4 + 8.
        let key_count = cursor.room_for("number of metadata keys", key_count, 13)?;
        let tensor_count = cursor.room_for("number of tensors", tensor_count, 32)?;
        let mut metadata = Vec::with_capacity(key_count);
        let mut by_key = HashMap::with_capacity(key_count);
        for index in 0..key_count {
            let key = cursor.string(&format!("name of metadata key {index}"), KEY_MAX)?;
            let value = Value::read(&mut cursor, &format!("key `{key}`"))?;
            if by_key.insert(key.clone(), index).is_some() {
                return Err(cursor.wrong(
                    "metadata",
                    "every key once".into(),
                    format!("`{key}` twice"),
                ));
            }
            metadata.push((key, value));
        }
        let alignment = alignment(path, by_key.get("general.alignment").map(|&i| &metadata[i].1))?;
        let mut tensors = Vec::with_capacity(tensor_count);
        let mut names = HashSet::with_capacity(tensor_count);
        for index in 0..tensor_count {
            let tensor = read_tensor(&mut cursor, index)?;
            if !names.insert(tensor.name.clone()) {
                let found = format!("`{}` twice", tensor.name);
                return Err(cursor.wrong("tensors", "every name once".into(), found));
            }
            tensors.push(tensor);
        }
        let data_at = cursor.position().next_multiple_of(alignment);
        for tensor in &mut tensors {
            place(path, tensor, data_at, alignment, source.size())?;
        }
        Ok(GgufHeader { version, metadata, tensors, data_at, by_key })
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.by_key.get(key).map(|&index| &self.metadata[index].1)
    }
}

fn read_magic(cursor: &mut Cursor<'_>) -> Result<u32, StoreError> {
    let magic: [u8; 4] = cursor.array("magic number")?;
    if &magic != b"GGUF" {
        let found = format!("`{}`", magic.escape_ascii());
        return Err(StoreError::Malformed {
            path: cursor.path().to_string(),
            at: "first four bytes".into(),
            expected: "`GGUF`".into(),
            found,
            remedy: "give a GGUF file or a Hugging Face folder",
        });
    }
    let version = cursor.u32("version")?;
    let remedy = match version {
        2 | 3 => return Ok(version),
        _ if matches!(version.swap_bytes(), 2 | 3) => "big-endian files are not supported",
        _ => "convert the model again with a current converter",
    };
    Err(StoreError::Malformed {
        path: cursor.path().to_string(),
        at: "version".into(),
        expected: "2 or 3, little-endian".into(),
        found: version.to_string(),
        remedy,
    })
}

fn alignment(path: &str, value: Option<&Value>) -> Result<u64, StoreError> {
    let Some(value) = value else { return Ok(32) };
    value.as_u64().filter(|a| a.is_power_of_two() && (8..=ALIGNMENT_MAX).contains(a)).ok_or_else(
        || {
            let expected = format!("a power of two from 8 to {ALIGNMENT_MAX}");
            StoreError::malformed(path, "key `general.alignment`", expected, value.display())
        },
    )
}

/// Reads one entry; `offset` is still relative to the data section.
fn read_tensor(cursor: &mut Cursor<'_>, index: usize) -> Result<GgufTensor, StoreError> {
    let name = cursor.string(&format!("name of tensor {index}"), NAME_MAX)?;
    let what = format!("tensor `{name}`");
    let dim_count = cursor.u32(&what)?;
    if !(1..=4).contains(&dim_count) {
        return Err(cursor.wrong(&what, "1 to 4 dimensions".into(), dim_count));
    }
    let mut dims = Vec::with_capacity(dim_count as usize);
    for _ in 0..dim_count {
        dims.push(cursor.u64(&what)?);
    }
    let elements = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
    if elements.is_none_or(|n| n == 0 || n > 1 << 48) {
        return Err(cursor.wrong(
            &what,
            "1 to 2^48 elements".into(),
            format!("dimensions {dims:?}"),
        ));
    }
    let type_id = cursor.u32(&what)?;
    let offset = cursor.u64(&what)?;
    Ok(GgufTensor { name, dims, type_id, offset, bytes: 0 })
}

/// Turns the relative offset into one from the start of the file and checks that the data is there.
fn place(
    path: &str,
    tensor: &mut GgufTensor,
    data_at: u64,
    alignment: u64,
    file_len: u64,
) -> Result<(), StoreError> {
    let wrong = |expected: String, found: String| StoreError::Malformed {
        path: path.to_string(),
        at: format!("tensor `{}`", tensor.name),
        expected,
        found,
        remedy: DAMAGED,
    };
    if !tensor.offset.is_multiple_of(alignment) {
        let expected = format!("an offset that is a multiple of {alignment}");
        return Err(wrong(expected, tensor.offset.to_string()));
    }
    let bytes = match tensor.dtype() {
        Some(dtype) => {
            let (rows, cols) = tensor.shape();
            if !cols.is_multiple_of(dtype.block_len()) {
                let expected = format!("a row length in whole blocks of {}", dtype.block_len());
                return Err(wrong(expected, format!("{cols} columns of {dtype}")));
            }
            // At most 2^48 elements of at most 4 bytes: no overflow.
            rows as u64 * dtype.row_bytes(cols) as u64
        }
        None => 0,
    };
    let end = data_at.checked_add(tensor.offset).and_then(|start| start.checked_add(bytes));
    if end.is_none_or(|end| end > file_len) {
        let found = format!("{bytes} bytes at {data_at} + {}", tensor.offset);
        return Err(wrong(format!("data within the file's {file_len} bytes"), found));
    }
    tensor.offset += data_at;
    tensor.bytes = bytes;
    Ok(())
}

/// Names of ggml types that forebay does not compute with (ggml.h).
fn foreign_type(id: u32) -> String {
    const NAMES: [(u32, &str); 23] = [
        (9, "Q8_1"),
        (10, "Q2_K"),
        (11, "Q3_K"),
        (15, "Q8_K"),
        (16, "IQ2_XXS"),
        (17, "IQ2_XS"),
        (18, "IQ3_XXS"),
        (19, "IQ1_S"),
        (20, "IQ4_NL"),
        (21, "IQ3_S"),
        (22, "IQ2_S"),
        (23, "IQ4_XS"),
        (24, "I8"),
        (25, "I16"),
        (26, "I32"),
        (27, "I64"),
        (28, "F64"),
        (29, "IQ1_M"),
        (34, "TQ1_0"),
        (35, "TQ2_0"),
        (39, "MXFP4"),
        (40, "NVFP4"),
        (41, "Q1_0"),
    ];
    NAMES
        .iter()
        .find(|(known, _)| *known == id)
        .map_or_else(|| format!("number {id}"), |(_, name)| format!("{name} (number {id})"))
}
