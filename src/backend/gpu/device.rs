//! The device trait on wgpu.

use super::adapter::{self, Selector};
use super::call;
use super::context::Context;
use super::kept::{Kept, KernelStore};
use super::kernels::{Family, Units};
use super::linear::{self, Scratch};
use super::memory::{Block, Memory};
use super::pipelines::{Dispatch, Pipelines};
use super::transfer::Transfer;
use super::units;
use crate::backend::{CopyPart, Device, DeviceError, DeviceInfo, DeviceKind, Fetch, MemoryUse};
use crate::kernel::{Buffer, Call, Matrix};
use crate::quant::{DType, Packing};
use std::sync::Arc;

/// Writes up to this many bytes are left to wgpu; larger ones take the staging ring.
const SMALL_WRITE: usize = 64 << 10;

/// Dispatches of one submission at most.
const DISPATCHES_MAX: usize = 256;

/// Invocations that kernels of [`Family::Lanes`] share a load between.
const LANES_SUBGROUP: u32 = 8;

/// What is not up to the adapter.
#[derive(Clone, Default)]
pub struct Options {
    /// Keeps what compiling kernels takes for the next process.
    pub store: Option<Arc<dyn KernelStore>>,
    /// Kernel family; `None` chooses by the kind of device.
    pub family: Option<Family>,
    /// Largest slab of a matrix in bytes; `None` takes the adapter's limit.
    pub slab_bytes_max: Option<u64>,
    /// What multiplies many rows, with the same bits; `None` takes matrix units where they are there, right
    /// and faster.
    pub units: Option<Units>,
}

/// The parts of a device that planning a call needs at once.
pub(super) struct Parts {
    pub context: Context,
    pub memory: Memory,
    pub pipelines: Pipelines,
    pub family: Family,
    /// What multiplies many rows of quantized weights, of [`Family::Tiles`]; `None`: the kernels of few.
    pub units: Option<Units>,
    /// Operations of one submission at most: 100 to 200 ms.
    pub cost_max: f64,
    /// Bound where a kernel has no use for a binding.
    pub empty: Block,
}

/// A GPU, or a graphics API emulated on the CPU.
pub struct GpuDevice {
    parts: Parts,
    transfer: Transfer,
    scratch: Scratch,
    slab_bytes_max: u64,
}

impl GpuDevice {
    /// Opens the adapter that `selector` names.
    ///
    /// # Errors
    /// [`DeviceError::Unavailable`] if there is none or it cannot run the kernels.
    pub fn open(selector: &Selector) -> Result<GpuDevice, DeviceError> {
        GpuDevice::open_with(selector, Options::default())
    }

    /// As [`GpuDevice::open`], with choices that are otherwise made by the kind of device.
    pub fn open_with(selector: &Selector, options: Options) -> Result<GpuDevice, DeviceError> {
        let adapter = adapter::select(selector)?;
        let fits = options.units.is_none() && options.family != Some(Family::Lanes);
        if fits && adapter::has_matrix_units(&adapter) {
            let with_units = GpuDevice::open_adapter(&adapter, options.clone(), true);
            let compared = with_units.and_then(|mut device| {
                let units = units::better(&mut device)?;
                device.multiply_with(units);
                Ok(device)
            });
            match compared {
                Ok(device) => return Ok(device),
                // A device that has failed once stays so.
                Err(error) => tracing::debug!("without matrix units: {error}"),
            }
        }
        GpuDevice::open_adapter(&adapter, options, false)
    }

    fn open_adapter(
        adapter: &wgpu::Adapter,
        options: Options,
        units: bool,
    ) -> Result<GpuDevice, DeviceError> {
        let context = Context::open(adapter, units)?;
        let store = options.store;
        let kept = store.and_then(|store| Kept::open(&adapter.get_info(), &context.device, store));
        let software = context.info.kind == DeviceKind::SoftwareGpu;
        let shares = context.subgroup >= LANES_SUBGROUP;
        let usual = if software && shares { Family::Lanes } else { Family::Tiles };
        let family = options.family.unwrap_or(usual);
        if family == Family::Lanes && !shares {
            return Err(DeviceError::Unavailable(format!(
                "{} has no subgroups of {LANES_SUBGROUP} invocations; use other kernels",
                context.info.name
            )));
        }
        // About 30 GFLOP/s on two cores, and at least 300 on the slowest integrated GPU.
        let cost_max = if software { 4e9 } else { 4e10 };
        let buffer_bytes_max = context.info.buffer_bytes_max;
        let mut memory = Memory::default();
        let transfer = Transfer::new(&context, &mut memory.held)?;
        let empty = memory.block(&context, 16, "empty binding")?;
        Ok(GpuDevice {
            parts: Parts {
                context,
                memory,
                pipelines: Pipelines::new(kept),
                family,
                units: options.units,
                cost_max,
                empty,
            },
            transfer,
            scratch: Scratch::default(),
            slab_bytes_max: options.slab_bytes_max.unwrap_or(u64::MAX).min(buffer_bytes_max),
        })
    }

    /// Lets other kernels multiply many rows.
    pub(super) fn multiply_with(&mut self, units: Option<Units>) {
        self.parts.units = units;
    }

    /// Kernels that are compiled or being compiled.
    #[cfg(test)]
    pub(super) fn kernels(&self) -> usize {
        self.parts.pipelines.count()
    }

    /// Whether the driver has a cache to keep.
    #[cfg(test)]
    pub(super) fn keeps_kernels(&self) -> bool {
        self.parts.pipelines.keeps()
    }

    /// Records and submits, cutting where a submission would take too long.
    fn submit(&mut self, list: &[Dispatch]) -> Result<(), DeviceError> {
        let mut from = 0;
        while from < list.len() {
            let mut cost = 0.0;
            let cut = list[from..].iter().take(DISPATCHES_MAX).take_while(|dispatch| {
                cost += dispatch.cost;
                cost <= self.parts.cost_max
            });
            let to = from + cut.count().max(1);
            let context = &mut self.parts.context;
            let mut encoder = context.device.create_command_encoder(&Default::default());
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for dispatch in &list[from..to] {
                pass.set_pipeline(&dispatch.pipeline);
                pass.set_bind_group(0, &dispatch.group, &[]);
                pass.set_immediates(0, &dispatch.params);
                pass.dispatch_workgroups(dispatch.grid[0], dispatch.grid[1], 1);
            }
            drop(pass);
            context.submit(encoder.finish())?;
            from = to;
        }
        Ok(())
    }

    /// Copies in one submission.
    fn submit_copies<'a>(
        &mut self,
        copies: impl Iterator<Item = (Buffer, &'a CopyPart)>,
        to: Buffer,
    ) -> Result<(), DeviceError> {
        let Parts { memory, context, .. } = &mut self.parts;
        let to = &memory.buffer(to).buffer;
        let mut encoder = context.device.create_command_encoder(&Default::default());
        for (from, part) in copies {
            let [source, target, bytes] = [part.from, part.to, part.bytes].map(|n| n as u64);
            encoder.copy_buffer_to_buffer(&memory.buffer(from).buffer, source, to, target, bytes);
        }
        context.submit(encoder.finish()).map(|_| ())
    }

    fn release(&mut self, block: &Block) {
        self.parts.pipelines.forget(block);
        self.parts.memory.release(block);
    }
}

impl Device for GpuDevice {
    fn info(&self) -> &DeviceInfo {
        &self.parts.context.info
    }

    fn alloc(&mut self, bytes: usize, what: &str) -> Result<Buffer, DeviceError> {
        let Parts { memory, context, .. } = &mut self.parts;
        let block = memory.block(context, bytes as u64, what)?;
        Ok(memory.add(block))
    }

    fn alloc_host(&mut self, bytes: usize, what: &str) -> Result<Option<Buffer>, DeviceError> {
        let Parts { memory, context, .. } = &mut self.parts;
        if !context.host_buffers {
            return Ok(None);
        }
        match memory.host_block(context, bytes as u64, what) {
            Ok(block) => Ok(Some(memory.add(block))),
            // What a device reaches may be less than there is: the caller has RAM of another kind.
            Err(DeviceError::OutOfMemory { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn copy(&mut self, from: Buffer, to: Buffer, parts: &[CopyPart]) -> Result<(), DeviceError> {
        self.submit_copies(parts.iter().map(|part| (from, part)), to)
    }

    fn gather(&mut self, copies: &[(Buffer, CopyPart)], to: Buffer) -> Result<(), DeviceError> {
        self.submit_copies(copies.iter().map(|(from, part)| (*from, part)), to)
    }

    fn free(&mut self, buffer: Buffer) {
        if let Some(block) = self.parts.memory.take(buffer) {
            self.release(&block);
        }
    }

    fn load(
        &mut self,
        dtype: DType,
        rows: usize,
        cols: usize,
        bytes: &[u8],
        what: &str,
    ) -> Result<Matrix, DeviceError> {
        let packing = Packing::new(dtype, rows, cols);
        let Parts { memory, context, .. } = &mut self.parts;
        let weights = memory.slabs(context, packing, self.slab_bytes_max, what)?;
        let sent = self.transfer.send_matrix(context, &weights, bytes);
        let matrix = memory.add_matrix(weights);
        match sent {
            Ok(()) => Ok(matrix),
            Err(error) => {
                self.unload(matrix);
                Err(error)
            }
        }
    }

    fn view(
        &mut self,
        dtype: DType,
        rows: usize,
        cols: usize,
        buffer: Buffer,
        offset: usize,
    ) -> Matrix {
        self.parts.memory.view(Packing::new(dtype, rows, cols), buffer, offset as u64)
    }

    fn prepare(&mut self, calls: &[Call]) {
        let Parts { pipelines, context, family, units, .. } = &mut self.parts;
        let kernels = calls.iter().flat_map(|call| call::kernels((*family, *units), call));
        pipelines.prepare(&context.device, kernels);
    }

    fn working_bytes(&self, calls: &[Call]) -> u64 {
        linear::working_bytes(calls)
    }

    fn reserve(&mut self, calls: &[Call]) -> Result<(), DeviceError> {
        linear::reserve(&mut self.parts, &mut self.scratch, calls)
    }

    fn limit(&mut self, bytes: u64) {
        self.parts.memory.held.limit = Some(bytes);
    }

    fn unload(&mut self, matrix: Matrix) {
        if let Some(weights) = self.parts.memory.take_matrix(&matrix) {
            for slab in &weights.slabs {
                match weights.borrowed {
                    true => self.parts.pipelines.forget(&slab.block),
                    false => self.release(&slab.block),
                }
            }
        }
    }

    fn write(&mut self, buffer: Buffer, offset: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        let Parts { memory, context, .. } = &mut self.parts;
        let to = &memory.buffer(buffer).buffer;
        if bytes.len() > SMALL_WRITE {
            return self.transfer.send(context, to, offset as u64, bytes);
        }
        context.queue.write_buffer(to, offset as u64, bytes);
        context.check()
    }

    fn read(&mut self, buffer: Buffer, offset: usize, out: &mut [u8]) -> Result<(), DeviceError> {
        let Parts { memory, context, .. } = &mut self.parts;
        let from = &memory.buffer(buffer).buffer;
        self.transfer.fetch(context, from, offset as u64, out)
    }

    fn fetch(&mut self, buffer: Buffer, parts: &[(usize, usize)]) -> Result<Fetch, DeviceError> {
        let Parts { memory, context, .. } = &mut self.parts;
        let from = &memory.buffer(buffer).buffer;
        let mut bytes = vec![0; parts.iter().map(|part| part.1).sum()];
        if !self.transfer.begin(context, from, parts)? {
            let mut at = 0;
            for &(offset, len) in parts {
                self.transfer.fetch(context, from, offset as u64, &mut bytes[at..at + len])?;
                at += len;
            }
        }
        Ok(Fetch(bytes))
    }

    fn fetched(&mut self, mut fetch: Fetch) -> Result<Vec<u8>, DeviceError> {
        self.transfer.end(&mut self.parts.context, &mut fetch.0)?;
        Ok(fetch.0)
    }

    fn run(&mut self, calls: &[Call]) -> Result<(), DeviceError> {
        let mut list = Vec::new();
        for call in calls {
            call::plan(&mut self.parts, &mut self.scratch, call, &mut list)?;
        }
        self.submit(&list)
    }

    fn memory(&self) -> MemoryUse {
        self.parts.memory.held
    }
}
