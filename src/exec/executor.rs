//! Runs steps on a device.

use super::ExecError;
use super::clock::Clock;
use super::config::{ExecutorConfig, Resources};
use super::load::Loader;
use super::pager::{Home, Pager, stride};
use super::reader::{Reader, Target};
use super::streams::Streams;
use super::trace::{Trace, TraceEvent};
use crate::backend::{Device, DeviceError, DeviceInfo, DeviceKind, MemoryUse};
use crate::forward::{self, HeadWeights, LayerWeights, Workspace};
use crate::kernel::{Buffer, Call, PAGE_LEN};
use crate::model::{LayerSpec, ModelSpec, Role, TensorId};
use crate::quant::dequantize_row;
use crate::schedule::{Batch, Matrices, Part, PassShape, Step, StreamPlan, pass_steps, prologue};
use crate::store::{
    AlignedBuffer, FileWeights, IoControl, ModelFiles, SpillFile, Throttle, WeightSource,
};
use forebay_planner::Tier;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// Rows of logits that are fetched from the device at a time.
pub(super) const FETCH_ROWS: usize = 16;

/// A model on a device, with its cache and workspace.
pub struct Executor {
    // Dropped first: their threads write into the device's memory or the host ring.
    streams: Option<Streams>,
    pager: Option<Pager>,
    /// Weights at home in RAM, by stream.
    in_ram: HashMap<usize, AlignedBuffer>,
    host_ring: Option<AlignedBuffer>,
    device: Box<dyn Device>,
    files: Arc<ModelFiles>,
    config: ExecutorConfig,
    plan: StreamPlan,
    ring: Option<Buffer>,
    layers: Vec<LayerWeights>,
    head: HeadWeights,
    /// The caches that are on the device.
    caches: Vec<Option<Buffer>>,
    workspace: Workspace,
    scratch: Scratch,
    /// The window that holds the pages of the coming turn, if they come through one.
    window: Option<Buffer>,
    /// Calls not yet given to the device.
    pending: Vec<Call>,
    passes: usize,
    uploaded_bytes: u64,
    throttle: Option<Arc<Throttle>>,
    trace: Option<Trace>,
    clock: Option<Clock>,
    /// Seconds that the event clock gives the last pass.
    simulated: f64,
}

/// Bytes that have moved between tiers, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Weights read from disk.
    pub read_bytes: u64,
    /// Weights copied to a device with memory of its own.
    pub uploaded_bytes: u64,
    /// Cache pages brought to windows.
    pub page_load_bytes: u64,
    /// Cache pages brought back.
    pub page_store_bytes: u64,
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
        Executor::with(device, files, config, Resources::default(), progress)
    }

    /// As [`Executor::new`], with what the machine lends.
    pub fn with(
        mut device: Box<dyn Device>,
        files: Arc<ModelFiles>,
        config: ExecutorConfig,
        resources: Resources,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Executor, ExecError> {
        let source: Arc<dyn WeightSource> = match &resources.weights {
            Some(source) => Arc::clone(source),
            None => Arc::new(FileWeights::new(Arc::clone(&files), IoControl::default())?),
        };
        let spec = files.spec();
        let matrices = Matrices::new(spec, |id| files.packing(id))?;
        let shares_ram = computes_in_ram(device.info());
        let mut plan = StreamPlan::new(spec, &matrices, &config.homes, config.rings, shares_ram)?;
        plan.caches = (0..spec.layers.len()).map(|layer| config.cache_home(layer)).collect();
        let ring = match plan.streams.is_empty() {
            true => None,
            false => Some(device.alloc(config.rings.device, "ring of streamed weights")?),
        };
        let (layers, head) = load(device.as_mut(), &files, &plan, ring, progress)?;
        let caches = caches(device.as_mut(), spec, &config)?;
        let pager = pager(device.as_mut(), spec, &config, &resources, shares_ram)?;
        let clock = match resources.profile {
            Some(profile) => {
                let shape = super::model_shape(&files)?;
                Some(Clock::new(&matrices, &plan, shape, profile, config.kv_format))
            }
            None => None,
        };
        let size = config.workspace(plan.head_streams());
        let workspace = Workspace::alloc(device.as_mut(), spec, size)?;
        let mut executor = Executor {
            streams: None,
            pager,
            in_ram: load_ram(&plan, &*source)?,
            host_ring: None,
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
            window: None,
            pending: Vec::new(),
            passes: 0,
            uploaded_bytes: 0,
            throttle: resources.upload_throttle,
            trace: resources.trace.then(Trace::new),
            clock,
            simulated: 0.0,
        };
        executor.start_streams(&source)?;
        Ok(executor)
    }

    fn start_streams(&mut self, source: &Arc<dyn WeightSource>) -> Result<(), ExecError> {
        if self.plan.reads().next().is_some() {
            let target = match self.ring.filter(|_| self.plan.shares_ram) {
                Some(ring) => {
                    let start = self.device.host_bytes(ring).expect("it computes in RAM");
                    Target::new(start, self.plan.rings.device)
                }
                None => {
                    let ring = self.host_ring.insert(AlignedBuffer::new(self.plan.rings.host)?);
                    Target::of(ring)
                }
            };
            let reader = Reader::start(source, self.config.readers).map_err(ExecError::NoThread)?;
            let overlap = self.config.overlap;
            self.streams = Some(Streams::start(&self.plan, reader, target, overlap));
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

    /// When each step and each read ran, if that was asked for.
    pub fn trace(&self) -> &[TraceEvent] {
        self.trace.as_ref().map_or(&[], Trace::events)
    }

    /// Seconds of all passes that the device computes, by the event clock.
    pub fn simulated_compute_seconds(&self) -> f64 {
        self.clock.as_ref().map_or(0.0, Clock::computed)
    }

    /// Whether the device computes in host memory: its bytes are bytes of RAM.
    pub fn shares_ram(&self) -> bool {
        self.plan.shares_ram
    }

    /// Bytes of weights, and of KV cache, that live on a tier.
    pub fn bytes_on(&self, tier: Tier) -> (u64, u64) {
        let layers = self.files.spec().layers.iter().enumerate();
        let there = layers.filter(|(index, _)| self.config.cache_home(*index) == tier);
        let format = self.config.kv_format;
        let page = |(_, layer): (usize, &LayerSpec)| layer.cache(format).page_bytes();
        let cache = there.map(|layer| (self.config.pages * page(layer)) as u64);
        (self.plan.bytes_at(&self.config.homes, tier), cache.sum())
    }

    /// Bytes that have moved between tiers.
    pub fn traffic(&self) -> Traffic {
        let pager = self.pager.as_ref();
        Traffic {
            read_bytes: self.streams.as_ref().map_or(0, |streams| streams.read_bytes),
            uploaded_bytes: self.uploaded_bytes,
            page_load_bytes: pager.map_or(0, |pager| pager.loaded_bytes),
            page_store_bytes: pager.map_or(0, |pager| pager.stored_bytes),
        }
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
        let micro = batch.split(self.workspace.size.micro_rows, self.config.micro_pages());
        let outputs: Vec<(usize, u32)> = micro
            .iter()
            .enumerate()
            .flat_map(|(index, batch)| batch.outputs.iter().map(move |&row| (index, row)))
            .collect();
        let slices = outputs.len().div_ceil(self.workspace.size.logit_rows);
        let shape = PassShape { micro_batches: micro.len(), slices };
        let mut pass = Pass { micro: &micro, outputs: &outputs, each };
        let steps = pass_steps(&self.plan, shape);
        for &step in &steps {
            let start = Instant::now();
            self.step(step, &mut pass)?;
            if let Some(trace) = &mut self.trace {
                trace.step(step, self.passes, start);
            }
        }
        self.passes += 1;
        if let Some(clock) = &mut self.clock {
            self.simulated = clock.pass(&self.plan, &steps, &micro);
        }
        Ok(())
    }

    /// Seconds that the last pass takes on the event clock; 0 where nothing is simulated.
    pub fn simulated_seconds(&self) -> f64 {
        self.simulated
    }

    fn step(&mut self, step: Step, pass: &mut Pass<'_>) -> Result<(), ExecError> {
        match step {
            Step::Embed { micro } => self.embed(micro, &pass.micro[micro]),
            Step::Upload { stream, next_pass } => {
                self.flush()?;
                self.upload(stream, self.passes + usize::from(next_pass))
            }
            Step::Await { part } => self.wait(part),
            Step::LoadPages { layer, micro } => {
                self.pager.as_mut().expect("a pager was made").load(layer, &pass.micro[micro]);
                Ok(())
            }
            Step::AwaitPages { .. } => {
                self.flush()?;
                let pager = self.pager.as_mut().expect("a pager was made");
                self.window = Some(pager.arrived(self.device.as_mut())?);
                Ok(())
            }
            Step::StorePages { .. } => {
                self.flush()?;
                self.window = None;
                self.pager.as_mut().expect("a pager was made").store(self.device.as_mut())
            }
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
                streams.wait(&self.plan, (pass, index), &mut self.trace)?;
                streams.target(&stream)
            }
            _ => {
                let to = (ring, stream.place.offset);
                copy(&self.throttle, self.device.as_mut(), to, &self.in_ram[&index])?;
                self.uploaded(stream.bytes);
                return Ok(());
            }
        };
        // SAFETY: the read is done, and its place is not written again before `uploaded` says so.
        let bytes = unsafe { target.bytes() };
        let to = (ring, stream.place.offset);
        copy(&self.throttle, self.device.as_mut(), to, bytes)?;
        self.uploaded(stream.bytes);
        Ok(())
    }

    fn uploaded(&mut self, bytes: usize) {
        self.uploaded_bytes += bytes as u64;
        if let Some(streams) = &mut self.streams {
            streams.uploaded(&self.plan);
        }
    }

    /// Waits for a part's reads, once the device has what it can do meanwhile.
    fn wait(&mut self, part: usize) -> Result<(), ExecError> {
        if !self.plan.shares_ram {
            return Ok(());
        }
        self.flush()?;
        let last = self.plan.parts[part].streams.end - 1;
        let streams = self.streams.as_mut().expect("reads were started");
        streams.wait(&self.plan, (self.passes, last), &mut self.trace)
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
                let m = &w.micro[micro];
                let view = match self.caches[layer] {
                    Some(cache) => m.view(cache),
                    None => m.window_view(self.window.expect("pages were awaited"), w.identity),
                };
                let weights = &self.layers[layer];
                forward::attention_calls(spec, layer, weights, &view, w, (micro, rows))
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
        if self.pager.is_some() {
            let (slots, path) = batch.windowed();
            self.device.write(m.windowed[0], 0, bytemuck::cast_slice(&slots))?;
            self.device.write(m.windowed[1], 0, bytemuck::cast_slice(&path))?;
        }
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

/// Copies to a place in a buffer, no faster than the throttle allows.
fn copy(
    throttle: &Option<Arc<Throttle>>,
    device: &mut dyn Device,
    (to, offset): (Buffer, usize),
    bytes: &[u8],
) -> Result<(), DeviceError> {
    match throttle {
        Some(throttle) => throttle.pace(bytes.len() as u64, || device.write(to, offset, bytes)),
        None => device.write(to, offset, bytes),
    }
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
) -> Result<HashMap<usize, AlignedBuffer>, ExecError> {
    let mut in_ram = HashMap::new();
    for (index, stream) in plan.streams.iter().enumerate().filter(|(_, s)| s.home == Tier::Ram) {
        let mut buffer = AlignedBuffer::new(stream.bytes)?;
        source.read_segment(stream.tensor, stream.index, &mut buffer)?;
        in_ram.insert(index, buffer);
    }
    Ok(in_ram)
}

/// The caches that live on the device.
fn caches(
    device: &mut dyn Device,
    spec: &ModelSpec,
    config: &ExecutorConfig,
) -> Result<Vec<Option<Buffer>>, ExecError> {
    let (pages, bytes_max) = (config.pages, device.info().buffer_bytes_max);
    let mut caches = Vec::new();
    for (index, layer) in spec.layers.iter().enumerate() {
        if config.cache_home(index) != Tier::Device {
            caches.push(None);
            continue;
        }
        let bytes = (pages * layer.cache(config.kv_format).page_bytes()) as u64;
        if bytes > bytes_max {
            let device = device.info().name.clone();
            return Err(ExecError::CacheTooLarge { pages, bytes, bytes_max, device });
        }
        caches.push(Some(device.alloc(bytes as usize, "KV cache")?));
    }
    Ok(caches)
}

/// What brings the pages of the other caches.
fn pager(
    device: &mut dyn Device,
    spec: &ModelSpec,
    config: &ExecutorConfig,
    resources: &Resources,
    shares_ram: bool,
) -> Result<Option<Pager>, ExecError> {
    let page = |layer: &LayerSpec| layer.cache(config.kv_format).page_bytes();
    let page_bytes: Vec<usize> = spec.layers.iter().map(page).collect();
    let mut homes = Vec::new();
    let mut spilled = 0;
    for (layer, &bytes) in page_bytes.iter().enumerate() {
        homes.push(match config.cache_home(layer) {
            Tier::Device => None,
            Tier::Ram => Some(Home::Ram(AlignedBuffer::new(config.pages * bytes)?)),
            Tier::Disk => {
                let first = spilled;
                spilled += (config.pages * stride(bytes)) as u64;
                Some(Home::File(first))
            }
        });
    }
    if homes.iter().all(Option::is_none) {
        return Ok(None);
    }
    let spill = match spilled {
        0 => None,
        bytes => {
            let control = resources.spill_control.clone();
            Some(Arc::new(SpillFile::create(&resources.spill_folder, bytes, control)?))
        }
    };
    Pager::start(device, page_bytes, config.window_pages, homes, spill, shares_ram).map(Some)
}
