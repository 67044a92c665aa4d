//! Bytes to and from the device through staging buffers that are made once.

use super::context::Context;
use super::memory::Weights;
use crate::backend::{DeviceError, MemoryUse};
use crate::quant::TILE_ROWS;

/// Bytes of one staging buffer.
const STAGING_BYTES: u64 = 4 << 20;

/// Staging buffers of the ring: one is filled while the others are copied.
const RING: usize = 3;

struct Staging {
    buffer: wgpu::Buffer,
    last_use: Option<wgpu::SubmissionIndex>,
}

/// The way to the device and back.
pub(super) struct Transfer {
    ring: Vec<Staging>,
    next: usize,
    back: wgpu::Buffer,
    /// A copy under way, in a buffer of its own so that others can be made and waited for meanwhile.
    parts: wgpu::Buffer,
    under_way: Option<wgpu::SubmissionIndex>,
}

impl Transfer {
    /// Makes the staging buffers and counts them in `held`.
    pub(super) fn new(context: &Context, held: &mut MemoryUse) -> Result<Transfer, DeviceError> {
        use wgpu::BufferUsages as Usage;
        let up = Usage::MAP_WRITE | Usage::COPY_SRC;
        let mut create = |usage| {
            let buffer = context.create(STAGING_BYTES, usage, "staging")?;
            held.grow(STAGING_BYTES);
            Ok(buffer)
        };
        let ring = (0..RING)
            .map(|_| Ok(Staging { buffer: create(up)?, last_use: None }))
            .collect::<Result<_, DeviceError>>()?;
        let down = Usage::MAP_READ | Usage::COPY_DST;
        let (back, parts) = (create(down)?, create(down)?);
        Ok(Transfer { ring, next: 0, back, parts, under_way: None })
    }

    /// Copies up to one staging buffer of bytes: `fill` writes them where the device will read them.
    fn send_piece(
        &mut self,
        context: &mut Context,
        to: &wgpu::Buffer,
        offset: u64,
        bytes: u64,
        fill: impl FnOnce(&mut wgpu::BufferViewMut),
    ) -> Result<(), DeviceError> {
        let staging = &mut self.ring[self.next];
        self.next = (self.next + 1) % RING;
        context.map(&staging.buffer, wgpu::MapMode::Write, bytes, staging.last_use.take())?;
        let mut view =
            staging.buffer.get_mapped_range_mut(0..bytes).map_err(|e| context.lost(e))?;
        fill(&mut view);
        drop(view);
        staging.buffer.unmap();
        let mut encoder = context.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&staging.buffer, 0, to, offset, bytes);
        staging.last_use = Some(context.submit(encoder.finish())?);
        Ok(())
    }

    /// Copies `bytes` to `offset` of a buffer.
    pub(super) fn send(
        &mut self,
        context: &mut Context,
        to: &wgpu::Buffer,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), DeviceError> {
        let mut at = offset;
        for piece in bytes.chunks(STAGING_BYTES as usize) {
            self.send_piece(context, to, at, piece.len() as u64, |v| v.copy_from_slice(piece))?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Packs a matrix (`source`: rows in file order) into its slabs, a few tiles at a time.
    pub(super) fn send_matrix(
        &mut self,
        context: &mut Context,
        weights: &Weights,
        source: &[u8],
    ) -> Result<(), DeviceError> {
        let packing = weights.packing;
        let (tile_bytes, row_bytes) = (packing.tile_bytes(), packing.dtype.row_bytes(packing.cols));
        // One tile stays in the CPU's cache; mapped memory may be slow to write out of order.
        let mut tile = vec![0; tile_bytes];
        let tiles_per_piece = STAGING_BYTES as usize / tile_bytes;
        for slab in &weights.slabs {
            let rows = &source[slab.first * row_bytes..][..slab.outs * row_bytes];
            let to = &slab.block.buffer;
            let mut at = 0;
            if tiles_per_piece == 0 {
                for rows in rows.chunks(TILE_ROWS * row_bytes) {
                    packing.pack_tile(rows, &mut tile);
                    self.send(context, to, at, &tile)?;
                    at += tile_bytes as u64;
                }
                continue;
            }
            for rows in rows.chunks(tiles_per_piece * TILE_ROWS * row_bytes) {
                let tiles = rows.chunks(TILE_ROWS * row_bytes);
                let bytes = (tiles.len() * tile_bytes) as u64;
                self.send_piece(context, to, at, bytes, |view| {
                    for (index, rows) in tiles.enumerate() {
                        packing.pack_tile(rows, &mut tile);
                        view.slice(index * tile_bytes..(index + 1) * tile_bytes)
                            .copy_from_slice(&tile);
                    }
                })?;
                at += bytes;
            }
        }
        Ok(())
    }

    /// Copies out of `offset` of a buffer, after all submissions so far.
    pub(super) fn fetch(
        &mut self,
        context: &mut Context,
        from: &wgpu::Buffer,
        offset: u64,
        out: &mut [u8],
    ) -> Result<(), DeviceError> {
        let mut at = offset;
        for piece in out.chunks_mut(STAGING_BYTES as usize) {
            let bytes = piece.len() as u64;
            let mut encoder = context.device.create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(from, at, &self.back, 0, bytes);
            let submission = context.submit(encoder.finish())?;
            context.map(&self.back, wgpu::MapMode::Read, bytes, Some(submission))?;
            copy_mapped(context, &self.back, piece)?;
            at += bytes;
        }
        Ok(())
    }

    /// Begins to copy parts (offset and length in bytes) of a buffer out, after all submissions so far;
    /// false if they are too many bytes.
    pub(super) fn begin(
        &mut self,
        context: &mut Context,
        from: &wgpu::Buffer,
        parts: &[(usize, usize)],
    ) -> Result<bool, DeviceError> {
        if parts.iter().map(|part| part.1 as u64).sum::<u64>() > STAGING_BYTES {
            return Ok(false);
        }
        let mut encoder = context.device.create_command_encoder(&Default::default());
        let mut to = 0;
        for &(offset, len) in parts {
            encoder.copy_buffer_to_buffer(from, offset as u64, &self.parts, to, len as u64);
            to += len as u64;
        }
        self.under_way = Some(context.submit(encoder.finish())?);
        Ok(true)
    }

    /// Waits for what [`Transfer::begin`] began and copies it to `out`, if anything was begun.
    pub(super) fn end(&mut self, context: &mut Context, out: &mut [u8]) -> Result<(), DeviceError> {
        let Some(submission) = self.under_way.take() else { return Ok(()) };
        let bytes = out.len() as u64;
        context.map(&self.parts, wgpu::MapMode::Read, bytes, Some(submission))?;
        copy_mapped(context, &self.parts, out)
    }
}

/// Copies out of a mapped buffer and unmaps it.
fn copy_mapped(context: &Context, from: &wgpu::Buffer, out: &mut [u8]) -> Result<(), DeviceError> {
    let view = from.get_mapped_range(0..out.len() as u64).map_err(|e| context.lost(e))?;
    out.copy_from_slice(&view);
    drop(view);
    from.unmap();
    Ok(())
}
