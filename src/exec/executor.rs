//! Runs steps on a device.

use super::ExecError;
use super::arena::Arena;
use super::config::ExecutorConfig;
use super::load::Loader;
use super::reader::Reader;
use super::streams::Streams;
use crate::backend::{Device, DeviceInfo, DeviceKind, MemoryUse};
use crate::forward::{self, HeadWeights, LayerWeights, Workspace};
use crate::kernel::{Buffer, Call, PAGE_LEN};
use crate::model::{ModelSpec, Role, TensorId};
use crate::quant::dequantize_row;
use crate::schedule::{Batch, Matrices, Part, PassShape, Step, StreamPlan, pass_steps, prologue};
use crate::store::{FileWeights, ModelFiles, WeightSource};
use forebay_planner::Tier;
use std::collections::HashMap;
use std::sync::Arc;

/// Rows of logits that are fetched from the device at a time.
const FETCH_ROWS: usize = 64;

/// A model on a device, with its cache and workspace.
pub struct Executor {
    // Dropped first: its threads write into the device's ring or the host's.
    streams: Option<Streams>,
    /// Weights at home in RAM, by stream.
    in_ram: HashMap<usize, Arena>,
    _host_ring: Option<Arena>,
    device: Box<dyn Device>,
    files: Arc<ModelFiles>,
    config: ExecutorConfig,
    plan: StreamPlan,
    ring: Option<Buffer>,
    layers: Vec<LayerWeights>,
    head: HeadWeights,
    caches: Vec<Buffer>,
    workspace: Workspace,
    scratch: Scratch,
    /// Calls not yet given to the device.
    pending: Vec<Call>,
    passes: usize,
}

/// Host memory that passes reuse.
#[derive(Default)]
struct Scratch {
    bytes: Vec<u8>,
    floats: Vec<f32>,
    logits: Vec<f32>,
}

/// A pass under way.
struct Pass<'a> {
    micro: &'a [Batch],
    /// For each output row of the pass: its micro-batch and its row there.
    outputs: &'a [(usize, u32)],
    each: &'a mut dyn FnMut(usize, &[f32]),
}

impl Executor {
    /// Loads what is resident onto `device`, calling `progress(parts_done, parts)` as it goes, and
    /// starts the streams of the rest. Streams come from the model's own files.
    pub fn new(
        device: Box<dyn Device>,
        files: Arc<ModelFiles>,
        config: ExecutorConfig,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Executor, ExecError> {
        let source = Arc::new(FileWeights::new(Arc::clone(&files)));
        Executor::with_source(device, files, source, config, progress)
    }

    /// As [`Executor::new`], with streams from `source`.
    pub fn with_source(
        mut device: Box<dyn Device>,
        files: Arc<ModelFiles>,
        source: Arc<dyn WeightSource>,
        config: ExecutorConfig,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Executor, ExecError> {
        let spec = files.spec();
        let matrices = Matrices::new(spec, |id| files.packing(id))?;
        let shares_ram = computes_in_ram(device.info());
        let plan = StreamPlan::new(spec, &matrices, &config.homes, config.rings, shares_ram)?;
        let ring = match plan.streams.is_empty() {
            true => None,
            false => Some(device.alloc(config.rings.device, "ring of streamed weights")?),
        };
        let (layers, head) = load(device.as_mut(), &files, &plan, ring, progress)?;
        let caches = caches(device.as_mut(), spec, config.pages)?;
        let size = config.workspace(plan.head_streams());
        let workspace = Workspace::alloc(device.as_mut(), spec, size)?;
        let mut executor = Executor {
            streams: None,
            in_ram: load_ram(&plan, &*source)?,
            _host_ring: None,
            device,
            files: Arc::clone(&files),
            config,
            plan,
            ring,
            layers,
            head,
            caches,
            workspace,
            scratch: Scratch::default(),
            pending: Vec::new(),
            passes: 0,
        };
        executor.start_streams(&source)?;
        Ok(executor)
    }

    fn start_streams(&mut self, source: &Arc<dyn WeightSource>) -> Result<(), ExecError> {
        if self.plan.reads().next().is_some() {
            let target = match self.ring.filter(|_| self.plan.shares_ram) {
                Some(ring) => {
                    let start = self.device.host_bytes(ring).expect("it computes in RAM");
                    super::reader::Target::new(start, self.plan.rings.device)
                }
                None => self._host_ring.insert(Arena::new(self.plan.rings.host)).target(),
            };
            let reader = Reader::start(source, self.config.readers).map_err(ExecError::NoThread)?;
            self.streams = Some(Streams::start(&self.plan, reader, target));
        }
        for step in prologue(&self.plan) {
            let Step::Upload { stream, .. } = step else { continue };
            self.upload(stream, 0)?;
        }
        Ok(())
    }

    /// The model's description.
    pub fn spec(&self) -> &ModelSpec {
        self.files.spec()
    }

    /// What the model runs on.
    pub fn device_info(&self) -> &DeviceInfo {
        self.device.info()
    }

    /// Bytes the device holds.
    pub fn memory(&self) -> MemoryUse {
        self.device.memory()
    }

    /// The sizes it was made with.
    pub fn config(&self) -> &ExecutorConfig {
        &self.config
    }

    /// What streams where.
    pub fn plan(&self) -> &StreamPlan {
        &self.plan
    }

    /// Positions the cache can hold in all.
    pub fn cache_positions(&self) -> usize {
        self.config.pages * PAGE_LEN
    }

    /// Runs one pass over `batch`, handing each slice of logits to `each(first_output, logits)`:
    /// `logits` is `[outputs of the slice][vocab]`, and `first_output` indexes `batch.outputs`.
    pub fn pass(
        &mut self,
        batch: &Batch,
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), ExecError> {
        assert!(batch.rows() <= self.config.rows, "{} rows exceed the workspace", batch.rows());
        let micro = batch.split(self.workspace.size.micro_rows);
        let outputs: Vec<(usize, u32)> = micro
            .iter()
            .enumerate()
            .flat_map(|(index, batch)| batch.outputs.iter().map(move |&row| (index, row)))
            .collect();
        let slices = outputs.len().div_ceil(self.workspace.size.logit_rows);
        let shape = PassShape { micro_batches: micro.len(), slices };
        let mut pass = Pass { micro: &micro, outputs: &outputs, each };
        for step in pass_steps(&self.plan, shape) {
            self.step(step, &mut pass)?;
        }
        self.passes += 1;
        Ok(())
    }

    fn step(&mut self, step: Step, pass: &mut Pass<'_>) -> Result<(), ExecError> {
        match step {
            Step::Embed { micro } => self.embed(micro, &pass.micro[micro]),
            Step::Upload { stream, next_pass } => {
                self.flush()?;
                self.upload(stream, self.passes + usize::from(next_pass))
            }
            Step::Await { part } => self.wait(part),
            Step::Run { part, micro } => {
                self.run(part, micro, pass.micro[micro].rows());
                Ok(())
            }
            Step::Release { part } => self.release(part),
            Step::Gather { slice } => self.gather(slice, pass),
            Step::Head { part, slice } => {
                let Part::Head(index) = self.plan.parts[part].part else {
                    unreachable!("the schedule names parts of the head")
                };
                let rows = self.slice(slice, pass).len();
                let (spec, w) = (self.files.spec(), &self.workspace);
                let calls = forward::head_calls(spec, &self.head, w, index, rows);
                self.pending.extend(calls);
                Ok(())
            }
            Step::Logits { slice } => self.logits(slice, pass),
        }
    }

    /// Gives the device what was recorded.
    fn flush(&mut self) -> Result<(), ExecError> {
        if !self.pending.is_empty() {
            self.device.run(&self.pending)?;
            self.pending.clear();
        }
        Ok(())
    }

    fn upload(&mut self, index: usize, pass: usize) -> Result<(), ExecError> {
        let stream = self.plan.streams[index];
        let ring = self.ring.expect("a ring was made for streams");
        let target = match stream.home {
            Tier::Disk => {
                let streams = self.streams.as_mut().expect("reads were started");
                streams.wait(pass, index)?;
                streams.target(&stream)
            }
            _ => self.in_ram[&index].target(),
        };
        // SAFETY: the read is done, and its place is not written again before `uploaded` says so.
        let bytes = unsafe { target.bytes() };
        self.device.write(ring, stream.place.offset, bytes)?;
        if let Some(streams) = &mut self.streams {
            streams.uploaded(&self.plan);
        }
        Ok(())
    }

    /// Waits for a part's reads, once the device has what it can do meanwhile.
    fn wait(&mut self, part: usize) -> Result<(), ExecError> {
        if !self.plan.shares_ram {
            return Ok(());
        }
        self.flush()?;
        let last = self.plan.parts[part].streams.end - 1;
        self.streams.as_mut().expect("reads were started").wait(self.passes, last)
    }

    fn release(&mut self, part: usize) -> Result<(), ExecError> {
        let plan = &self.plan.parts[part];
        // A layer at a time, so that the device is neither idle nor flooded.
        if !plan.streams.is_empty() || matches!(plan.part, Part::FeedForward(_)) {
            self.flush()?;
        }
        if let Some(streams) = &mut self.streams {
            streams.release(&self.plan, self.passes * self.plan.parts.len() + part + 1);
        }
        Ok(())
    }

    fn run(&mut self, part: usize, micro: usize, rows: usize) {
        let (spec, w) = (self.files.spec(), &self.workspace);
        let calls = match self.plan.parts[part].part {
            Part::Attention(layer) => {
                let (weights, cache) = (&self.layers[layer], self.caches[layer]);
                forward::attention_calls(spec, layer, weights, cache, w, (micro, rows))
            }
            Part::FeedForward(layer) => {
                forward::feed_forward_calls(spec, layer, &self.layers[layer], w, (micro, rows))
            }
            Part::Head(_) => unreachable!("the head is not run over micro-batches"),
        };
        self.pending.extend(calls);
    }

    /// Embedding rows come straight from the store, so that the table needs no device memory.
    fn embed(&mut self, micro: usize, batch: &Batch) -> Result<(), ExecError> {
        let spec = self.files.spec();
        let id = TensorId::global(Role::Embedding);
        let info = self.files.tensor(id).ok_or(ExecError::MissingTensor(id))?;
        let floats = &mut self.scratch.floats;
        floats.resize(batch.rows() * spec.hidden, 0.0);
        for (&token, out) in batch.tokens.iter().zip(floats.chunks_exact_mut(spec.hidden)) {
            let row = token as usize;
            self.files.read(id, row..row + 1, &mut self.scratch.bytes)?;
            dequantize_row(info.dtype, &self.scratch.bytes, out);
            out.iter_mut().for_each(|v| *v *= spec.embed_scale);
        }
        let m = &self.workspace.micro[micro];
        self.device.write(m.x, 0, bytemuck::cast_slice(floats))?;
        for (rope, &buffer) in spec.ropes.iter().zip(&m.angles) {
            forward::angles(rope, &batch.positions, floats);
            self.device.write(buffer, 0, bytemuck::cast_slice(floats))?;
        }
        self.device.write(m.slots, 0, bytemuck::cast_slice(&batch.slots))?;
        self.device.write(m.map, 0, bytemuck::cast_slice(&batch.map))?;
        self.device.write(m.pages, 0, bytemuck::cast_slice(&batch.pages))?;
        self.device.write(m.path, 0, bytemuck::cast_slice(&batch.path))?;
        Ok(())
    }

    /// The output rows of a slice.
    fn slice<'a>(&self, slice: usize, pass: &Pass<'a>) -> &'a [(usize, u32)] {
        let rows = self.workspace.size.logit_rows;
        &pass.outputs[slice * rows..pass.outputs.len().min((slice + 1) * rows)]
    }

    fn gather(&mut self, slice: usize, pass: &Pass<'_>) -> Result<(), ExecError> {
        let outputs = self.slice(slice, pass);
        let mut first = 0;
        for run in outputs.chunk_by(|a, b| a.0 == b.0) {
            let rows: Vec<u32> = run.iter().map(|&(_, row)| row).collect();
            self.flush()?;
            self.device.write(self.workspace.outputs, 0, bytemuck::cast_slice(&rows))?;
            let (spec, w) = (self.files.spec(), &self.workspace);
            self.pending.extend(forward::gather_calls(spec, w, run[0].0, (first, run.len())));
            first += run.len();
        }
        let (spec, w) = (self.files.spec(), &self.workspace);
        self.pending.extend(forward::head_norm_calls(spec, &self.head, w, outputs.len()));
        Ok(())
    }

    fn logits(&mut self, slice: usize, pass: &mut Pass<'_>) -> Result<(), ExecError> {
        self.flush()?;
        let rows = self.slice(slice, pass).len();
        let (vocab, logits) = (self.files.spec().vocab, &mut self.scratch.logits);
        let first = slice * self.workspace.size.logit_rows;
        for from in (0..rows).step_by(FETCH_ROWS) {
            logits.resize(FETCH_ROWS.min(rows - from) * vocab, 0.0);
            let offset = from * vocab * 4;
            self.device.read(self.workspace.logits, offset, bytemuck::cast_slice_mut(logits))?;
            (pass.each)(first + from, logits);
        }
        Ok(())
    }
}

/// Whether a device computes in host memory, so that what is read from disk needs no upload.
pub(super) fn computes_in_ram(device: &DeviceInfo) -> bool {
    device.kind == DeviceKind::Cpu
}

/// Loads what is resident, makes views of what streams.
fn load(
    device: &mut dyn Device,
    files: &ModelFiles,
    plan: &StreamPlan,
    ring: Option<Buffer>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(Vec<LayerWeights>, HeadWeights), ExecError> {
    let count = files.spec().layers.len();
    let mut loader = Loader { files, device, plan, ring, bytes: &mut Vec::new() };
    let mut layers = Vec::with_capacity(count);
    for (index, parts) in plan.parts[..2 * count].chunks_exact(2).enumerate() {
        progress(index, count + 1);
        layers.push(loader.layer(index, &parts[0], &parts[1])?);
    }
    progress(count, count + 1);
    Ok((layers, loader.head()?))
}

/// Reads the streams that live in RAM.
fn load_ram(
    plan: &StreamPlan,
    source: &dyn WeightSource,
) -> Result<HashMap<usize, Arena>, ExecError> {
    let mut in_ram = HashMap::new();
    for (index, stream) in plan.streams.iter().enumerate().filter(|(_, s)| s.home == Tier::Ram) {
        let arena = Arena::new(stream.bytes);
        // SAFETY: nobody else has the arena yet.
        source.read_segment(stream.tensor, stream.index, unsafe { arena.target().bytes() })?;
        in_ram.insert(index, arena);
    }
    Ok(in_ram)
}

fn caches(
    device: &mut dyn Device,
    spec: &ModelSpec,
    pages: usize,
) -> Result<Vec<Buffer>, ExecError> {
    let bytes_max = device.info().buffer_bytes_max;
    let mut caches = Vec::new();
    for layer in &spec.layers {
        let bytes = (pages * layer.cache().page_bytes()) as u64;
        if bytes > bytes_max {
            let device = device.info().name.clone();
            return Err(ExecError::CacheTooLarge { pages, bytes, bytes_max, device });
        }
        caches.push(device.alloc(bytes as usize, "KV cache")?);
    }
    Ok(caches)
}
