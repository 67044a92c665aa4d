//! Writes GGUF v3 files: for tests and synthetic models.

use super::Value;
use super::value::{ARRAY_ID, STRING_ID};
use crate::quant::DType;
use std::io::{self, Write};

/// Alignment of tensors in written files (the format's default).
const ALIGNMENT: u64 = 32;

/// A tensor of a file to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorPlan {
    /// Name.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Sizes, innermost first; the first must fill whole blocks.
    pub dims: Vec<u64>,
}

impl TensorPlan {
    /// A `rows` x `cols` matrix.
    pub fn matrix(name: impl Into<String>, dtype: DType, rows: usize, cols: usize) -> TensorPlan {
        TensorPlan { name: name.into(), dtype, dims: vec![cols as u64, rows as u64] }
    }

    /// A vector of f32.
    pub fn vector(name: impl Into<String>, len: usize) -> TensorPlan {
        TensorPlan { name: name.into(), dtype: DType::F32, dims: vec![len as u64] }
    }

    /// Bytes of the data.
    pub fn bytes(&self) -> u64 {
        let row = self.dtype.row_bytes(self.dims[0] as usize) as u64;
        row * self.dims[1..].iter().product::<u64>()
    }
}

/// Writes a header at once and tensors one after the other, so that a model larger than memory can
/// be written from a stream.
pub struct GgufWriter<W: Write> {
    out: W,
    tensors: Vec<TensorPlan>,
    /// Length of the whole file.
    bytes: u64,
    /// The tensor being written and how much of it was.
    current: usize,
    written: u64,
}

impl<W: Write> GgufWriter<W> {
    /// Writes the header of a file with these keys and tensors (in this order).
    pub fn new(
        mut out: W,
        metadata: &[(String, Value)],
        tensors: Vec<TensorPlan>,
    ) -> io::Result<GgufWriter<W>> {
        let mut header = b"GGUF".to_vec();
        header.extend(3u32.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            put_text(key, &mut header);
            put_value(value, &mut header);
        }
        let mut offset = 0;
        for tensor in &tensors {
            put_text(&tensor.name, &mut header);
            header.extend((tensor.dims.len() as u32).to_le_bytes());
            header.extend(tensor.dims.iter().flat_map(|dim| dim.to_le_bytes()));
            header.extend(tensor.dtype.gguf_id().to_le_bytes());
            header.extend(u64::to_le_bytes(offset));
            offset += tensor.bytes().next_multiple_of(ALIGNMENT);
        }
        header.resize(header.len().next_multiple_of(ALIGNMENT as usize), 0);
        out.write_all(&header)?;
        Ok(GgufWriter { out, tensors, bytes: header.len() as u64 + offset, current: 0, written: 0 })
    }

    /// Bytes of the file once every tensor is written.
    pub fn file_bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends bytes to the data of the current tensor; full tensors are padded and the next
    /// begins.
    ///
    /// A call may not span two tensors.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let planned = self.tensors.get(self.current).map_or(0, TensorPlan::bytes);
        self.written += bytes.len() as u64;
        if self.written > planned {
            let name = self.tensors.get(self.current).map_or("(none left)", |t| &t.name);
            let text = format!("tensor {name}: {} bytes given, {planned} planned", self.written);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        self.out.write_all(bytes)?;
        if self.written == planned {
            let padding = planned.next_multiple_of(ALIGNMENT) - planned;
            self.out.write_all(&[0; ALIGNMENT as usize][..padding as usize])?;
            self.current += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// Gives the output back as it is, data missing or not.
    pub fn into_inner(self) -> W {
        self.out
    }

    /// Flushes and gives the output back; an error if data is missing.
    pub fn finish(mut self) -> io::Result<W> {
        if let Some(tensor) = self.tensors.get(self.current) {
            let text =
                format!("tensor {}: {} of {} bytes", tensor.name, self.written, tensor.bytes());
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Scalar(kind, bytes) => {
            out.extend(kind.id().to_le_bytes());
            out.extend(&bytes[..kind.bytes()]);
        }
        Value::Text(text) => {
            out.extend(STRING_ID.to_le_bytes());
            put_text(text, out);
        }
        Value::Numbers(..) | Value::Texts(_) | Value::Nested(_) => {
            out.extend(ARRAY_ID.to_le_bytes());
            put_array(value, out);
        }
    }
}

fn put_array(value: &Value, out: &mut Vec<u8>) {
    let (id, count) = match value {
        Value::Numbers(kind, bytes) => (kind.id(), bytes.len() / kind.bytes()),
        Value::Texts(texts) => (STRING_ID, texts.len()),
        Value::Nested(values) => (ARRAY_ID, values.len()),
        // Only arrays nest: a lone value among them is written as an empty array.
        Value::Scalar(..) | Value::Text(_) => (STRING_ID, 0),
    };
    out.extend(id.to_le_bytes());
    out.extend((count as u64).to_le_bytes());
    match value {
        Value::Numbers(_, bytes) => out.extend(bytes),
        Value::Texts(texts) => texts.iter().for_each(|text| put_text(text, out)),
        Value::Nested(values) => values.iter().for_each(|value| put_array(value, out)),
        Value::Scalar(..) | Value::Text(_) => {}
    }
}
