//! Buffers, matrices, and runs.

use super::linear::Bench;
use super::memory::Memory;
use super::plan::{Lookup, Plan, Sized, needs};
use super::simd::SimdPath;
use super::span::Span;
use super::team::{PARTS, Phase, Team};
use crate::backend::{Device, DeviceError, DeviceInfo, DeviceKind, MemoryUse};
use crate::kernel::{Buffer, Call, Matrix};
use crate::quant::{DType, Packing, TILE_ROWS};
use std::ptr::NonNull;

/// Work below this many nanoseconds is not worth waking helpers for.
const TOGETHER_NS: usize = 20_000;

/// A phase cheaper than this stays on one thread.
const ALONE_NS: usize = 2_000;

/// Nanoseconds of work taken at a time, at least.
const GRAIN_NS: usize = 4_000;

/// Where a matrix's tiles lie.
enum Weights {
    Own(Memory),
    /// In a buffer, from a byte on.
    View(Buffer, usize),
}

/// The native CPU device.
pub struct CpuDevice {
    info: DeviceInfo,
    path: SimdPath,
    team: Team,
    buffers: Vec<Option<Memory>>,
    matrices: Vec<Option<(Packing, Weights)>>,
    workspace: Memory,
    benches: Vec<Memory>,
    scratch: Vec<Memory>,
    plan: Plan,
    memory: MemoryUse,
}

impl CpuDevice {
    /// A device on the fastest path of this processor, with `threads` threads (all cores if `None`).
    pub fn new(threads: Option<usize>) -> Result<CpuDevice, DeviceError> {
        CpuDevice::with_path(threads, SimdPath::best())
    }

    /// A device on a given path.
    ///
    /// # Errors
    /// [`DeviceError::Unavailable`] if the processor lacks the path or threads cannot be started.
    pub fn with_path(threads: Option<usize>, path: SimdPath) -> Result<CpuDevice, DeviceError> {
        if !path.is_available() {
            return Err(DeviceError::Unavailable(format!("this processor has no {path}")));
        }
        let team = Team::new(count(threads))?;
        let threads = team.threads();
        let benches = (0..threads)
            .map(|_| Memory::new(size_of::<Bench>(), "working memory"))
            .collect::<Result<Vec<Memory>, DeviceError>>()?;
        let scratch = (0..threads)
            .map(|_| Memory::new(0, "working memory"))
            .collect::<Result<Vec<Memory>, DeviceError>>()?;
        let plural = if threads == 1 { "" } else { "s" };
        let mut memory = MemoryUse::default();
        memory.grow((threads * size_of::<Bench>()) as u64);
        Ok(CpuDevice {
            info: DeviceInfo {
                name: processor_name(),
                kind: DeviceKind::Cpu,
                driver: format!("{path}, {threads} thread{plural}"),
                buffer_bytes_max: isize::MAX as u64,
                memory_bytes: None,
            },
            path,
            team,
            buffers: Vec::new(),
            matrices: Vec::new(),
            workspace: Memory::new(0, "workspace")?,
            benches,
            scratch,
            plan: Plan::default(),
            memory,
        })
    }
}

impl CpuDevice {
    /// Bytes that a device of so many threads (all cores if `None`) holds beside buffers and matrices
    /// once it has reserved what `calls` need.
    pub fn own_bytes(threads: Option<usize>, calls: &[Call]) -> u64 {
        let (space, scratch) = needs(calls);
        let each = size_of::<Bench>() + scratch * size_of::<f32>();
        (space + count(threads) * each) as u64
    }
}

/// Threads that are asked for, or one for each core.
fn count(threads: Option<usize>) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    threads.unwrap_or_else(cores).max(1)
}

fn enlarge(memory: &mut Memory, bytes: usize, held: &mut MemoryUse) -> Result<(), DeviceError> {
    if memory.len() < bytes {
        held.shrink(memory.len() as u64);
        *memory = Memory::new(0, "workspace")?;
        *memory = take(bytes, "workspace", held)?;
    }
    Ok(())
}

/// Allocates within the limit, and counts it.
fn take(bytes: usize, what: &str, held: &mut MemoryUse) -> Result<Memory, DeviceError> {
    if !held.allows(bytes as u64) {
        return Err(DeviceError::OutOfMemory {
            device: "cpu".into(),
            what: what.into(),
            bytes: bytes as u64,
        });
    }
    let memory = Memory::new(bytes, what)?;
    held.grow(bytes as u64);
    Ok(memory)
}

/// The processor's marketing name, or its architecture.
fn processor_name() -> String {
    let named = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_string())
    });
    named.unwrap_or_else(|| std::env::consts::ARCH.to_string())
}

/// Puts `value` in a free place and returns its index.
fn place<T>(table: &mut Vec<Option<T>>, value: T) -> u32 {
    let free = table.iter().position(Option::is_none);
    let index = free.unwrap_or_else(|| {
        table.push(None);
        table.len() - 1
    });
    table[index] = Some(value);
    u32::try_from(index).expect("fewer than 2^32 handles")
}

impl Lookup for CpuDevice {
    fn buffer(&self, buffer: Buffer) -> Span {
        self.buffers[buffer.0 as usize].as_ref().expect("buffer was freed").span()
    }

    fn matrix(&self, matrix: Matrix) -> (Packing, Span) {
        let (packing, weights) =
            self.matrices[matrix.id as usize].as_ref().expect("matrix was unloaded");
        let span = match weights {
            Weights::Own(memory) => memory.span(),
            Weights::View(buffer, offset) => self.buffer(*buffer).skip(*offset),
        };
        (*packing, span)
    }
}

impl Device for CpuDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&mut self, bytes: usize, what: &str) -> Result<Buffer, DeviceError> {
        let memory = take(bytes, what, &mut self.memory)?;
        Ok(Buffer(place(&mut self.buffers, memory)))
    }

    fn free(&mut self, buffer: Buffer) {
        let memory = self.buffers[buffer.0 as usize].take().expect("buffer was freed");
        self.memory.shrink(memory.len() as u64);
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
        let row_bytes = dtype.row_bytes(cols);
        assert_eq!(bytes.len(), rows * row_bytes, "{what}: bytes of {rows} rows of {cols} {dtype}");
        let memory = take(packing.bytes(), what, &mut self.memory)?;
        let span = memory.span();
        let tile_bytes = packing.tile_bytes();
        let phases = [Phase::new(packing.tiles(), 1)];
        self.team.run(&phases, packing.tiles() > 1, &|_, _, tiles| {
            for tile in tiles {
                let first = tile * TILE_ROWS;
                let source = &bytes[first * row_bytes..(first + TILE_ROWS).min(rows) * row_bytes];
                // SAFETY: each tile is packed once, by one thread.
                packing.pack_tile(source, unsafe { span.slice_mut(tile * tile_bytes, tile_bytes) });
            }
        });
        let id = place(&mut self.matrices, (packing, Weights::Own(memory)));
        Ok(Matrix { id, dtype, rows, cols })
    }

    fn view(
        &mut self,
        dtype: DType,
        rows: usize,
        cols: usize,
        buffer: Buffer,
        offset: usize,
    ) -> Matrix {
        let packing = Packing::new(dtype, rows, cols);
        self.buffer(buffer).skip(offset).holds::<u8>(packing.bytes(), "view of weights");
        let id = place(&mut self.matrices, (packing, Weights::View(buffer, offset)));
        Matrix { id, dtype, rows, cols }
    }

    fn host_bytes(&mut self, buffer: Buffer) -> Option<NonNull<u8>> {
        NonNull::new(self.buffer(buffer).at::<u8>(0, 0))
    }

    fn working_bytes(&self, calls: &[Call]) -> u64 {
        let (space, scratch) = needs(calls);
        (space + scratch * size_of::<f32>() * self.team.threads()) as u64
    }

    fn reserve(&mut self, calls: &[Call]) -> Result<(), DeviceError> {
        let (space, scratch) = needs(calls);
        let held = &mut self.memory;
        enlarge(&mut self.workspace, space, held)?;
        for own in &mut self.scratch {
            enlarge(own, scratch * size_of::<f32>(), held)?;
        }
        Ok(())
    }

    fn limit(&mut self, bytes: u64) {
        self.memory.limit = Some(bytes);
    }

    fn unload(&mut self, matrix: Matrix) {
        let (_, weights) = self.matrices[matrix.id as usize].take().expect("matrix was unloaded");
        if let Weights::Own(memory) = weights {
            self.memory.shrink(memory.len() as u64);
        }
    }

    fn write(&mut self, buffer: Buffer, offset: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        let memory = self.buffers[buffer.0 as usize].as_mut().expect("buffer was freed");
        memory.part_mut(offset, bytes.len()).copy_from_slice(bytes);
        Ok(())
    }

    fn read(&mut self, buffer: Buffer, offset: usize, out: &mut [u8]) -> Result<(), DeviceError> {
        let memory = self.buffers[buffer.0 as usize].as_ref().expect("buffer was freed");
        out.copy_from_slice(memory.part(offset, out.len()));
        Ok(())
    }

    fn run(&mut self, calls: &[Call]) -> Result<(), DeviceError> {
        self.reserve(calls)?;
        // Taken out, since it looks things up in the rest.
        let mut plan = std::mem::take(&mut self.plan);
        plan.fill(calls, self, &self.workspace);
        let threads = self.team.threads();
        let phase = |step: &Sized| {
            let all = step.units * step.cost;
            let share = step.units.div_ceil(PARTS * threads);
            let grain = (GRAIN_NS / step.cost.max(1)).clamp(1, share.max(1));
            Phase::new(step.units, if all < ALONE_NS { step.units } else { grain })
        };
        plan.phases.clear();
        plan.phases.extend(plan.steps.iter().map(phase));
        let total: usize = plan.steps.iter().map(|step| step.units * step.cost).sum();
        let (benches, scratch) = (&self.benches, &self.scratch);
        self.team.run(&plan.phases, total >= TOGETHER_NS, &|phase, worker, units| {
            let bench = benches[worker].span().at(0, 0);
            let scratch = scratch[worker].span().at(0, 0);
            // SAFETY: the constructor checked the path, the team hands out each unit once, and
            // working memory is the worker's own and was sized by `reserve`.
            unsafe { plan.run(phase, self.path, units, bench, scratch) };
        });
        self.plan = plan;
        Ok(())
    }

    fn memory(&self) -> MemoryUse {
        self.memory
    }
}
