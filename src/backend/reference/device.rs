//! Buffers and the dispatch of calls.

use super::linear::{self, Weights};
use super::{attention, elementwise};
use crate::backend::{Device, DeviceError, DeviceInfo, DeviceKind, MemoryUse};
use crate::kernel::{Buffer, Call, Matrix};
use crate::quant::DType;

/// A live matrix.
enum Stored {
    /// Its rows in file order.
    Rows(Vec<u8>),
    /// Packed, in a buffer from a byte on.
    View(Buffer, usize),
}

/// The reference device.
pub struct ReferenceDevice {
    info: DeviceInfo,
    /// Words of each live buffer; freed ones are `None`.
    buffers: Vec<Option<Vec<u32>>>,
    matrices: Vec<Option<Stored>>,
    memory: MemoryUse,
}

impl Default for ReferenceDevice {
    fn default() -> ReferenceDevice {
        ReferenceDevice::new()
    }
}

impl ReferenceDevice {
    /// A fresh device with nothing allocated.
    pub fn new() -> ReferenceDevice {
        ReferenceDevice {
            info: DeviceInfo {
                name: "reference".to_string(),
                kind: DeviceKind::Reference,
                driver: "scalar kernels".to_string(),
                buffer_bytes_max: u64::MAX,
                memory_bytes: None,
            },
            buffers: Vec::new(),
            matrices: Vec::new(),
            memory: MemoryUse::default(),
        }
    }

    fn words(&self, buffer: Buffer) -> &[u32] {
        self.buffers[buffer.0 as usize].as_deref().expect("buffer was freed")
    }

    fn floats(&self, buffer: Buffer) -> &[f32] {
        bytemuck::cast_slice(self.words(buffer))
    }

    fn weights(&self, matrix: Matrix) -> Weights<'_> {
        match self.matrices[matrix.id as usize].as_ref().expect("matrix was unloaded") {
            Stored::Rows(bytes) => Weights::Rows(bytes),
            Stored::View(buffer, offset) => {
                Weights::Packed(&bytemuck::cast_slice(self.words(*buffer))[*offset..])
            }
        }
    }

    fn check(&self, bytes: usize, what: &str) -> Result<(), DeviceError> {
        if self.memory.allows(bytes as u64) {
            return Ok(());
        }
        let (device, what) = (self.info.name.clone(), what.to_string());
        Err(DeviceError::OutOfMemory { device, what, bytes: bytes as u64 })
    }

    /// Runs `body` on the output buffer, taken out so that it may alias inputs only by copy.
    fn edit(&mut self, buffer: Buffer, body: impl FnOnce(&ReferenceDevice, &mut [f32])) {
        let mut out = self.words(buffer).to_vec();
        body(self, bytemuck::cast_slice_mut(&mut out));
        self.buffers[buffer.0 as usize] = Some(out);
    }

    fn call(&mut self, call: &Call) {
        match call {
            &Call::RmsNorm { x, weight, out, rows, cols, eps } => self.edit(out, |d, out| {
                let (x, weight) = (d.floats(x), d.floats(weight));
                elementwise::rms_norm(x, weight, out, rows, cols, eps);
            }),
            Call::Linear { x, rows, cols, projections } => {
                for p in projections.iter() {
                    assert_eq!(p.weight.cols, *cols, "projections share their input");
                    self.edit(p.out, |d, out| {
                        let weights = d.weights(p.weight);
                        let bias = p.bias.map(|b| d.floats(b));
                        let out = (out, p.first, p.stride);
                        linear::linear((p.weight, weights), bias, d.floats(*x), out, *rows);
                    });
                }
            }
            &Call::Rope { x, angles, rows, heads, head_dim, pairs, style } => {
                self.edit(x, |d, x| {
                    let angles = d.floats(angles);
                    elementwise::rope(x, angles, rows, heads, head_dim, pairs, style);
                });
            }
            &Call::Rotate { x, rows, heads, head_dim } => self.edit(x, |_, x| {
                elementwise::rotate(&mut x[..rows * heads * head_dim], head_dim);
            }),
            &Call::BiasTerms { q, bias, out, rows, heads, kv_heads, head_dim, style } => {
                self.edit(out, |d, out| {
                    let (q, bias) = (d.floats(q), d.floats(bias));
                    let shape = (rows, heads, kv_heads, head_dim);
                    elementwise::bias_terms(q, bias, out, shape, style);
                });
            }
            &Call::Append { k, v, cache, slots, rows, layout } => self.edit(cache, |d, cache| {
                let cache: &mut [u8] = bytemuck::cast_slice_mut(cache);
                attention::append(d.floats(k), d.floats(v), cache, d.words(slots), rows, layout);
            }),
            &Call::Move { cache, moves, count, layout } => self.edit(cache, |d, cache| {
                let cache: &mut [u8] = bytemuck::cast_slice_mut(cache);
                attention::move_slots(cache, &d.words(moves)[..2 * count], layout);
            }),
            Call::Attention { q, cache, map, pages, path, out, key_bias, .. } => {
                self.edit(*out, |d, out| {
                    let operands = attention::Operands {
                        q: d.floats(*q),
                        cache: bytemuck::cast_slice(d.words(*cache)),
                        map: bytemuck::cast_slice(d.words(*map)),
                        pages: d.words(*pages),
                        path: d.words(*path),
                        bias: key_bias.map(|bias| (d.floats(bias.terms), d.floats(bias.turns))),
                    };
                    attention::attention(call, &operands, out);
                });
            }
            &Call::Gate { gate, up, out, count, activation } => self.edit(out, |d, out| {
                elementwise::gate(d.floats(gate), d.floats(up), out, count, activation);
            }),
            &Call::Add { x, y, count } => self.edit(x, |d, x| {
                x[..count].iter_mut().zip(d.floats(y)).for_each(|(x, y)| *x += y);
            }),
            &Call::Gather { x, index, out, first, rows, cols } => self.edit(out, |d, out| {
                for (row, &from) in d.words(index)[..rows].iter().enumerate() {
                    let from = &d.floats(x)[from as usize * cols..][..cols];
                    out[(first + row) * cols..][..cols].copy_from_slice(from);
                }
            }),
        }
    }
}

impl Device for ReferenceDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&mut self, bytes: usize, what: &str) -> Result<Buffer, DeviceError> {
        self.check(bytes, what)?;
        self.memory.grow(bytes as u64);
        self.buffers.push(Some(vec![0; bytes.div_ceil(4)]));
        Ok(Buffer(self.buffers.len() as u32 - 1))
    }

    fn free(&mut self, buffer: Buffer) {
        let words = self.buffers[buffer.0 as usize].take().expect("buffer was freed");
        self.memory.shrink(words.len() as u64 * 4);
    }

    fn load(
        &mut self,
        dtype: DType,
        rows: usize,
        cols: usize,
        bytes: &[u8],
        what: &str,
    ) -> Result<Matrix, DeviceError> {
        assert_eq!(bytes.len(), rows * dtype.row_bytes(cols));
        self.check(bytes.len(), what)?;
        self.memory.grow(bytes.len() as u64);
        self.matrices.push(Some(Stored::Rows(bytes.to_vec())));
        Ok(Matrix { id: self.matrices.len() as u32 - 1, dtype, rows, cols })
    }

    fn view(
        &mut self,
        dtype: DType,
        rows: usize,
        cols: usize,
        buffer: Buffer,
        offset: usize,
    ) -> Matrix {
        self.matrices.push(Some(Stored::View(buffer, offset)));
        Matrix { id: self.matrices.len() as u32 - 1, dtype, rows, cols }
    }

    fn working_bytes(&self, _calls: &[Call]) -> u64 {
        0
    }

    fn reserve(&mut self, _calls: &[Call]) -> Result<(), DeviceError> {
        Ok(())
    }

    fn limit(&mut self, bytes: u64) {
        self.memory.limit = Some(bytes);
    }

    fn unload(&mut self, matrix: Matrix) {
        let stored = self.matrices[matrix.id as usize].take().expect("matrix was unloaded");
        if let Stored::Rows(bytes) = stored {
            self.memory.shrink(bytes.len() as u64);
        }
    }

    fn write(&mut self, buffer: Buffer, offset: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        let words = self.buffers[buffer.0 as usize].as_mut().expect("buffer was freed");
        bytemuck::cast_slice_mut(words)[offset..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn read(&mut self, buffer: Buffer, offset: usize, out: &mut [u8]) -> Result<(), DeviceError> {
        let words = self.words(buffer);
        out.copy_from_slice(&bytemuck::cast_slice(words)[offset..][..out.len()]);
        Ok(())
    }

    fn run(&mut self, calls: &[Call]) -> Result<(), DeviceError> {
        calls.iter().for_each(|call| self.call(call));
        Ok(())
    }

    fn memory(&self) -> MemoryUse {
        self.memory
    }
}
