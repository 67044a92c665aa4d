//! Metadata values.

use super::cursor::Cursor;
use crate::store::error::StoreError;

/// Deepest nesting of arrays in arrays that is read.
const DEPTH: usize = 4;

/// Type of a scalar, or of the elements of an array of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Unsigned 8 bits.
    U8,
    /// Signed 8 bits.
    I8,
    /// Unsigned 16 bits.
    U16,
    /// Signed 16 bits.
    I16,
    /// Unsigned 32 bits.
    U32,
    /// Signed 32 bits.
    I32,
    /// 32-bit float.
    F32,
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned 64 bits.
    U64,
    /// Signed 64 bits.
    I64,
    /// 64-bit float.
    F64,
}

pub(super) const STRING_ID: u32 = 8;
pub(super) const ARRAY_ID: u32 = 9;

impl Kind {
    const BY_ID: [(u32, Kind); 11] = [
        (0, Kind::U8),
        (1, Kind::I8),
        (2, Kind::U16),
        (3, Kind::I16),
        (4, Kind::U32),
        (5, Kind::I32),
        (6, Kind::F32),
        (7, Kind::Bool),
        (10, Kind::U64),
        (11, Kind::I64),
        (12, Kind::F64),
    ];

    fn from_id(id: u32) -> Option<Kind> {
        Kind::BY_ID.iter().find(|(i, _)| *i == id).map(|(_, kind)| *kind)
    }

    pub(super) fn id(self) -> u32 {
        Kind::BY_ID.iter().find(|(_, kind)| *kind == self).map_or(0, |(id, _)| *id)
    }

    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => 1,
            Kind::U16 | Kind::I16 => 2,
            Kind::U32 | Kind::I32 | Kind::F32 => 4,
            Kind::U64 | Kind::I64 | Kind::F64 => 8,
        }
    }

    /// The value in `bytes` as an integer, if it is a whole number.
    fn integer(self, bytes: &[u8]) -> Option<i128> {
        let mut wide = [0u8; 8];
        wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
        let unsigned = u64::from_le_bytes(wide);
        Some(match self {
            Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64 | Kind::Bool => i128::from(unsigned),
            Kind::I8 => i128::from(unsigned as i8),
            Kind::I16 => i128::from(unsigned as i16),
            Kind::I32 => i128::from(unsigned as i32),
            Kind::I64 => i128::from(unsigned as i64),
            Kind::F32 | Kind::F64 => return None,
        })
    }

    fn float(self, bytes: &[u8]) -> Option<f64> {
        match self {
            Kind::F32 => Some(f64::from(f32::from_le_bytes(bytes.try_into().ok()?))),
            Kind::F64 => Some(f64::from_le_bytes(bytes.try_into().ok()?)),
            _ => self.integer(bytes).map(|i| i as f64),
        }
    }
}

/// A metadata value. Numbers keep their bytes, so that memory stays within the size of the file.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// One number or flag, little-endian in the first [`Kind::bytes`] bytes.
    Scalar(Kind, [u8; 8]),
    /// Text.
    Text(String),
    /// An array of numbers or flags, little-endian.
    Numbers(Kind, Vec<u8>),
    /// An array of texts.
    Texts(Vec<String>),
    /// An array of arrays.
    Nested(Vec<Value>),
}

impl Value {
    /// An unsigned 32-bit value.
    pub fn u32(value: u32) -> Value {
        Value::scalar(Kind::U32, &value.to_le_bytes())
    }

    /// A 32-bit float.
    pub fn f32(value: f32) -> Value {
        Value::scalar(Kind::F32, &value.to_le_bytes())
    }

    /// A flag.
    pub fn bool(value: bool) -> Value {
        Value::scalar(Kind::Bool, &[u8::from(value)])
    }

    /// Text.
    pub fn text(value: impl Into<String>) -> Value {
        Value::Text(value.into())
    }

    /// An array of 32-bit floats.
    pub fn f32s(values: &[f32]) -> Value {
        Value::Numbers(Kind::F32, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// An array of signed 32-bit integers.
    pub fn i32s(values: &[i32]) -> Value {
        Value::Numbers(Kind::I32, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    fn scalar(kind: Kind, bytes: &[u8]) -> Value {
        let mut wide = [0; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        Value::Scalar(kind, wide)
    }

    /// The value as a non-negative integer.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Value::Scalar(kind, bytes) => u64::try_from(kind.integer(&bytes[..kind.bytes()])?).ok(),
            _ => None,
        }
    }

    /// The value as a float.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Scalar(kind, bytes) => kind.float(&bytes[..kind.bytes()]),
            _ => None,
        }
    }

    /// The value as a flag.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Scalar(Kind::Bool, bytes) => Some(bytes[0] != 0),
            _ => None,
        }
    }

    /// The value as text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value as a list of integers; flags count as 0 and 1.
    pub fn integers(&self) -> Option<Vec<i64>> {
        let Value::Numbers(kind, bytes) = self else { return None };
        let values = bytes.chunks_exact(kind.bytes());
        values.map(|b| i64::try_from(kind.integer(b)?).ok()).collect()
    }

    /// The value as a list of floats.
    pub fn floats(&self) -> Option<Vec<f64>> {
        let Value::Numbers(kind, bytes) = self else { return None };
        bytes.chunks_exact(kind.bytes()).map(|b| kind.float(b)).collect()
    }

    /// The value as a list of texts; an empty array of any type is one too.
    pub fn texts(&self) -> Option<&[String]> {
        match self {
            Value::Texts(texts) => Some(texts),
            Value::Numbers(_, bytes) if bytes.is_empty() => Some(&[]),
            _ => None,
        }
    }

    /// A short form for people: long texts and arrays are cut.
    pub fn display(&self) -> String {
        match self {
            Value::Scalar(Kind::Bool, bytes) => (bytes[0] != 0).to_string(),
            Value::Scalar(kind, bytes) => show_number(*kind, &bytes[..kind.bytes()]),
            Value::Text(text) => cut(text, 80),
            Value::Numbers(kind, bytes) => {
                let items = bytes.chunks_exact(kind.bytes());
                list(items.len(), items.take(4).map(|b| show_number(*kind, b)))
            }
            Value::Texts(texts) => list(texts.len(), texts.iter().take(4).map(|t| cut(t, 20))),
            Value::Nested(values) => format!("[{} arrays]", values.len()),
        }
    }

    pub(super) fn read(cursor: &mut Cursor<'_>, key: &str) -> Result<Value, StoreError> {
        let id = cursor.u32(key)?;
        read_value(cursor, key, id, 0)
    }
}

fn show_number(kind: Kind, bytes: &[u8]) -> String {
    match (kind.integer(bytes), kind) {
        (Some(integer), _) => integer.to_string(),
        (None, Kind::F32) => kind.float(bytes).map_or_else(String::new, |f| (f as f32).to_string()),
        (None, _) => kind.float(bytes).map_or_else(String::new, |f| f.to_string()),
    }
}

fn list(len: usize, shown: impl Iterator<Item = String>) -> String {
    let mut out = format!("[{}", shown.collect::<Vec<_>>().join(", "));
    out.push_str(if len > 4 { ", ...] " } else { "] " });
    out + &format!("({len})")
}

fn cut(text: &str, most: usize) -> String {
    let flat: String = text.chars().take(most).flat_map(char::escape_debug).collect();
    if text.chars().nth(most).is_some() { flat + "..." } else { flat }
}

fn read_value(
    cursor: &mut Cursor<'_>,
    key: &str,
    id: u32,
    depth: usize,
) -> Result<Value, StoreError> {
    match id {
        STRING_ID => Ok(Value::Text(cursor.string(key, u64::MAX)?)),
        ARRAY_ID => read_array(cursor, key, depth),
        _ => {
            let kind = Kind::from_id(id)
                .ok_or_else(|| cursor.wrong(key, "a value type from 0 to 12".into(), id))?;
            let mut bytes = Vec::with_capacity(8);
            cursor.bytes(key, kind.bytes(), &mut bytes)?;
            Ok(Value::scalar(kind, &bytes))
        }
    }
}

fn read_array(cursor: &mut Cursor<'_>, key: &str, depth: usize) -> Result<Value, StoreError> {
    if depth == DEPTH {
        return Err(cursor.wrong(key, format!("arrays nested at most {DEPTH} deep"), "more"));
    }
    let id = cursor.u32(key)?;
    let count = cursor.u64(key)?;
    match id {
        STRING_ID => {
            let count = cursor.room_for(key, count, 8)?;
            let mut texts = Vec::with_capacity(count);
            for _ in 0..count {
                texts.push(cursor.string(key, u64::MAX)?);
            }
            Ok(Value::Texts(texts))
        }
        ARRAY_ID => {
            let count = cursor.room_for(key, count, 12)?;
            let mut values = Vec::with_capacity(count);
            for _ in 0..count {
                values.push(read_array(cursor, key, depth + 1)?);
            }
            Ok(Value::Nested(values))
        }
        _ => {
            let kind = Kind::from_id(id)
                .ok_or_else(|| cursor.wrong(key, "an element type from 0 to 12".into(), id))?;
            let count = cursor.room_for(key, count, kind.bytes() as u64)?;
            let mut bytes = Vec::with_capacity(count * kind.bytes());
            cursor.bytes(key, count * kind.bytes(), &mut bytes)?;
            Ok(Value::Numbers(kind, bytes))
        }
    }
}
