//! The residual stream where it lives in RAM between the turns of micro-batches.

use super::ExecError;
use crate::backend::Device;
use crate::kernel::Buffer;
use crate::store::AlignedBuffer;

/// Rows of each micro-batch, `[micro_rows][hidden]` f32; the device has room for one at a time.
pub(super) struct Resting {
    hidden: usize,
    micro: Vec<AlignedBuffer>,
}

impl Resting {
    pub(super) fn new(
        hidden: usize,
        micro_rows: usize,
        micro_batches: usize,
    ) -> Result<Resting, ExecError> {
        let buffer = |_| AlignedBuffer::new(micro_rows * hidden * size_of::<f32>());
        let micro = (0..micro_batches).map(buffer).collect::<Result<_, _>>()?;
        Ok(Resting { hidden, micro })
    }

    fn bytes(&mut self, micro: usize, rows: usize) -> &mut [u8] {
        &mut self.micro[micro][..rows * self.hidden * size_of::<f32>()]
    }

    /// Takes a micro-batch's first rows, `[rows][hidden]`.
    pub(super) fn put(&mut self, micro: usize, rows: &[f32]) {
        self.bytes(micro, rows.len() / self.hidden).copy_from_slice(bytemuck::cast_slice(rows));
    }

    /// Brings `rows` rows of a micro-batch to the device.
    pub(super) fn load(
        &mut self,
        device: &mut dyn Device,
        x: Buffer,
        (micro, rows): (usize, usize),
    ) -> Result<(), ExecError> {
        Ok(device.write(x, 0, self.bytes(micro, rows))?)
    }

    /// Brings them back.
    pub(super) fn store(
        &mut self,
        device: &mut dyn Device,
        x: Buffer,
        (micro, rows): (usize, usize),
    ) -> Result<(), ExecError> {
        Ok(device.read(x, 0, self.bytes(micro, rows))?)
    }

    /// Copies one row to `[row][hidden]` of a device buffer.
    pub(super) fn gather(
        &mut self,
        device: &mut dyn Device,
        (micro, from): (usize, usize),
        (to, row): (Buffer, usize),
    ) -> Result<(), ExecError> {
        let len = self.hidden * size_of::<f32>();
        let bytes = &self.bytes(micro, from + 1)[from * len..];
        Ok(device.write(to, row * len, bytes)?)
    }
}
