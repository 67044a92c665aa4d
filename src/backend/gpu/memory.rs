//! What lives on the device: buffers, weight slabs, scratch, and their bytes.

use super::context::Context;
use crate::backend::{DeviceError, MemoryUse};
use crate::kernel::{Buffer, Matrix};
use crate::quant::{Packing, TILE_ROWS};
use std::collections::HashMap;

/// A device buffer, or a part of one, under a number that is never reused.
pub(super) struct Block {
    pub serial: u32,
    pub buffer: wgpu::Buffer,
    /// First byte and bytes of the part.
    pub start: u64,
    pub bytes: u64,
    /// Whether it lies in host memory, which is not the device's to count.
    pub on_host: bool,
}

impl Block {
    pub(super) fn binding(&self) -> wgpu::BindingResource<'_> {
        wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: &self.buffer,
            offset: self.start,
            size: wgpu::BufferSize::new(self.bytes),
        })
    }
}

/// Whole tiles of a matrix that one binding can see.
pub(super) struct Slab {
    pub block: Block,
    /// First output.
    pub first: usize,
    /// Outputs, padding of the last tile not counted.
    pub outs: usize,
}

/// A matrix on the device.
pub(super) struct Weights {
    pub packing: Packing,
    pub slabs: Vec<Slab>,
    /// Whether the slabs are parts of a buffer of the caller's.
    pub borrowed: bool,
}

const STORAGE: wgpu::BufferUsages = wgpu::BufferUsages::STORAGE
    .union(wgpu::BufferUsages::COPY_SRC)
    .union(wgpu::BufferUsages::COPY_DST);

/// Memory that a mapping for reading asks for is the host's, and cached there.
const HOST: wgpu::BufferUsages = wgpu::BufferUsages::MAP_READ
    .union(wgpu::BufferUsages::COPY_SRC)
    .union(wgpu::BufferUsages::COPY_DST);

#[derive(Default)]
pub(super) struct Memory {
    pub held: MemoryUse,
    serials: u32,
    buffers: HashMap<Buffer, Block>,
    matrices: HashMap<u32, Weights>,
}

impl Memory {
    /// A zeroed block of at least `bytes`, in whole vectors of 16 bytes.
    pub(super) fn block(
        &mut self,
        context: &Context,
        bytes: u64,
        what: &str,
    ) -> Result<Block, DeviceError> {
        let bytes = bytes.max(1).next_multiple_of(16);
        if !self.held.allows(bytes) {
            let (device, what) = (context.info.name.clone(), what.to_string());
            return Err(DeviceError::OutOfMemory { device, what, bytes });
        }
        let buffer = context.create(bytes, STORAGE, what)?;
        self.held.grow(buffer.size());
        Ok(self.whole(buffer, false))
    }

    /// A zeroed block in host memory, of at least `bytes`.
    pub(super) fn host_block(
        &mut self,
        context: &Context,
        bytes: u64,
        what: &str,
    ) -> Result<Block, DeviceError> {
        let buffer = context.create(bytes.max(1).next_multiple_of(16), HOST, what)?;
        Ok(self.whole(buffer, true))
    }

    fn whole(&mut self, buffer: wgpu::Buffer, on_host: bool) -> Block {
        self.serials += 1;
        let bytes = buffer.size();
        Block { serial: self.serials, buffer, start: 0, bytes, on_host }
    }

    /// A matrix whose packed bytes are a part of `buffer`.
    pub(super) fn view(&mut self, packing: Packing, buffer: Buffer, start: u64) -> Matrix {
        let whole = self.buffer(buffer).buffer.clone();
        let bytes = packing.bytes() as u64;
        assert!(start + bytes <= whole.size(), "a view lies within its buffer");
        self.serials += 1;
        let block = Block { serial: self.serials, buffer: whole, start, bytes, on_host: false };
        let slabs = vec![Slab { block, first: 0, outs: packing.rows }];
        self.add_matrix(Weights { packing, slabs, borrowed: true })
    }

    /// Gives a block back; the device frees it once submissions that use it are done.
    pub(super) fn release(&mut self, block: &Block) {
        if !block.on_host {
            self.held.shrink(block.buffer.size());
        }
    }

    pub(super) fn add(&mut self, block: Block) -> Buffer {
        let handle = Buffer(block.serial);
        self.buffers.insert(handle, block);
        handle
    }

    pub(super) fn buffer(&self, handle: Buffer) -> &Block {
        self.buffers.get(&handle).unwrap_or_else(|| panic!("{handle:?} is not on this device"))
    }

    pub(super) fn matrix(&self, matrix: &Matrix) -> &Weights {
        self.matrices.get(&matrix.id).unwrap_or_else(|| panic!("{matrix:?} is not on this device"))
    }

    /// Removes a buffer; the block is to be released.
    pub(super) fn take(&mut self, handle: Buffer) -> Option<Block> {
        self.buffers.remove(&handle)
    }

    /// Removes a matrix; its slabs' blocks are to be released.
    pub(super) fn take_matrix(&mut self, matrix: &Matrix) -> Option<Weights> {
        self.matrices.remove(&matrix.id)
    }

    pub(super) fn add_matrix(&mut self, weights: Weights) -> Matrix {
        self.serials += 1;
        let Packing { dtype, rows, cols } = weights.packing;
        self.matrices.insert(self.serials, weights);
        Matrix { id: self.serials, dtype, rows, cols }
    }

    /// Empty slabs for a matrix, none larger than `bytes_max`.
    pub(super) fn slabs(
        &mut self,
        context: &Context,
        packing: Packing,
        bytes_max: u64,
        what: &str,
    ) -> Result<Weights, DeviceError> {
        let tile_bytes = packing.tile_bytes() as u64;
        let tiles = (bytes_max / tile_bytes).max(1) as usize;
        let mut weights = Weights { packing, slabs: Vec::new(), borrowed: false };
        for first in (0..packing.rows).step_by(tiles * TILE_ROWS) {
            let outs = (packing.rows - first).min(tiles * TILE_ROWS);
            let bytes = outs.div_ceil(TILE_ROWS) as u64 * tile_bytes;
            match self.block(context, bytes, what) {
                Ok(block) => weights.slabs.push(Slab { block, first, outs }),
                Err(error) => {
                    weights.slabs.iter().for_each(|slab| self.release(&slab.block));
                    return Err(error);
                }
            }
        }
        Ok(weights)
    }
}
