//! Runs steps on a device.

use super::ExecError;
use super::clock::Clock;
use super::config::ExecutorConfig;
use super::host::HostAttention;
use super::pager::Pager;
use super::resting::Resting;
use super::streams::Streams;
use super::trace::{Trace, TraceEvent};
use super::traffic::Traffic;
use crate::backend::{Device, DeviceError, DeviceInfo, DeviceKind, MemoryUse};
use crate::forward::{self, HeadWeights, LayerWeights, Workspace};
use crate::kernel::{Buffer, Call, PAGE_LEN};
use crate::model::{LayerSpec, ModelSpec, Role, TensorId};
use crate::quant::dequantize_row;
use crate::schedule::{Batch, Part, PassShape, Step, StreamPlan, pass_steps};
use crate::store::{AlignedBuffer, ModelFiles, Throttle};
use forebay_planner::Tier;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// Weights and cache elements of these bytes make every sum they enter not a number.
pub(super) const POISON: u8 = 0xFF;

/// Rows of logits that are fetched from the device at a time.
pub(super) const FETCH_ROWS: usize = 16;

/// A model on a device, with its cache and workspace.
pub struct Executor {
    // Dropped first: their threads write into the device's memory or the host ring.
    pub(super) streams: Option<Streams>,
    pub(super) pager: Option<Pager>,
    /// What attends, where that is not the device.
    pub(super) host: Option<HostAttention>,
    /// Weights at home in RAM, by stream.
    pub(super) in_ram: HashMap<usize, AlignedBuffer>,
    pub(super) host_ring: Option<AlignedBuffer>,
    pub(super) device: Box<dyn Device>,
    pub(super) files: Arc<ModelFiles>,
    pub(super) config: ExecutorConfig,
    pub(super) plan: StreamPlan,
    pub(super) ring: Option<Buffer>,
    pub(super) layers: Vec<LayerWeights>,
    pub(super) head: HeadWeights,
    /// The caches that are on the device.
    pub(super) caches: Vec<Option<Buffer>>,
    pub(super) workspace: Workspace,
    /// The residual stream, where it does not live on the device.
    pub(super) resting: Option<Resting>,
    pub(super) scratch: Scratch,
    /// The window that holds the pages of the coming turn, if they come through one.
    pub(super) window: Option<Buffer>,
    /// Calls not yet given to the device.
    pub(super) pending: Vec<Call>,
    pub(super) passes: usize,
    pub(super) uploaded_bytes: u64,
    pub(super) throttle: Option<Arc<Throttle>>,
    pub(super) poison: bool,
    pub(super) trace: Option<Trace>,
    pub(super) clock: Option<Clock>,
    /// Seconds that the event clock gives the last pass.
    pub(super) simulated: f64,
}

/// Host memory that passes reuse.
#[derive(Default)]
pub(super) struct Scratch {
    bytes: Vec<u8>,
    floats: Vec<f32>,
    logits: Vec<f32>,
}

/// A pass under way.
struct Pass<'a> {
    micro: &'a Arc<Vec<Batch>>,
    /// For each output row of the pass: its micro-batch and its row there.
    outputs: &'a [(usize, u32)],
    each: &'a mut dyn FnMut(usize, &[f32]),
}

impl Executor {
    /// Spoils the places of streams that are done with.
    fn poison_streams(&mut self, streams: Range<usize>) -> Result<(), ExecError> {
        if let Some(ring) = self.ring.filter(|_| self.poison) {
            for stream in &self.plan.streams[streams] {
                self.device.write(ring, stream.place.offset, &vec![POISON; stream.bytes])?;
            }
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

    /// What the model runs on, to ask it questions.
    pub fn device(&self) -> &dyn Device {
        self.device.as_ref()
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

    /// Seconds of all passes that the host attends, by the event clock.
    pub fn simulated_attention_seconds(&self) -> f64 {
        self.clock.as_ref().map_or(0.0, Clock::attended)
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
        let micro_rows = self.workspace.size.micro_rows;
        let micro = Arc::new(batch.split(micro_rows, self.config.micro_pages()));
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
            Step::Embed { micro } => self.embed(micro, pass),
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
            Step::LoadRows { micro } | Step::StoreRows { micro } => {
                self.flush()?;
                let (x, rows) = (self.workspace.micro[micro].x, pass.micro[micro].rows());
                let (resting, device) = (self.resting.as_mut(), self.device.as_mut());
                let resting = resting.expect("rows rest in RAM");
                match step {
                    Step::LoadRows { .. } => resting.load(device, x, (micro, rows)),
                    _ => resting.store(device, x, (micro, rows)),
                }
            }
            Step::Attend { layer, micro } => {
                self.flush()?;
                let host = self.host.as_mut().expect("the host attends");
                host.attend(self.device.as_mut(), &self.workspace, (layer, micro), pass.micro)
            }
            Step::AwaitAttention { micro, .. } => {
                // The device has something to do while this waits.
                self.flush()?;
                let host = self.host.as_mut().expect("the host attends");
                let (out, at) = (self.workspace.attention, (self.passes, micro));
                host.arrived(self.device.as_mut(), out, at, &mut self.trace)
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

    pub(super) fn upload(&mut self, index: usize, pass: usize) -> Result<(), ExecError> {
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
        if self.poison {
            bytes.fill(POISON);
        }
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
        let streams = plan.streams.clone();
        // A layer at a time, so that the device is neither idle nor flooded.
        if !streams.is_empty() || matches!(plan.part, Part::FeedForward(_)) {
            self.flush()?;
        }
        self.poison_streams(streams)?;
        if let Some(streams) = &mut self.streams {
            streams.release(&self.plan, self.passes * self.plan.parts.len() + part + 1);
        }
        Ok(())
    }

    fn run(&mut self, part: usize, micro: usize, rows: usize) {
        let (spec, w) = (self.files.spec(), &self.workspace);
        let calls = match self.plan.parts[part].part {
            Part::Attention(layer) if self.plan.host_attention => {
                forward::qkv_calls(spec, layer, &self.layers[layer], w, (micro, rows))
            }
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
                let weights = &self.layers[layer];
                if self.plan.host_attention {
                    let calls = forward::output_calls(spec, layer, weights, w, (micro, rows));
                    self.pending.extend(calls);
                }
                forward::feed_forward_calls(spec, layer, weights, w, (micro, rows))
            }
            Part::Head(_) => unreachable!("the head is not run over micro-batches"),
        };
        self.pending.extend(calls);
    }

    /// Embedding rows come straight from the store, so that the table needs no device memory.
    fn embed(&mut self, micro: usize, pass: &Pass<'_>) -> Result<(), ExecError> {
        let batch = &pass.micro[micro];
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
        match self.resting.as_mut().filter(|_| self.plan.rows_rest(pass.micro.len())) {
            Some(resting) => resting.put(micro, floats),
            None => self.device.write(m.x, 0, bytemuck::cast_slice(floats))?,
        }
        for (rope, &buffer) in spec.ropes.iter().zip(&m.angles) {
            forward::angles(rope, &batch.positions, floats);
            self.device.write(buffer, 0, bytemuck::cast_slice(floats))?;
        }
        if self.host.is_some() {
            // What rows attend to goes to the host with them.
            return Ok(());
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
        match self.resting.as_mut().filter(|_| self.plan.rows_rest(pass.micro.len())) {
            Some(resting) => {
                for (to, &(micro, row)) in outputs.iter().enumerate() {
                    let (from, to) = ((micro, row as usize), (self.workspace.head, to));
                    resting.gather(self.device.as_mut(), from, to)?;
                }
            }
            None => self.gather_on_device(outputs)?,
        }
        let (spec, w) = (self.files.spec(), &self.workspace);
        self.pending.extend(forward::head_norm_calls(spec, &self.head, w, outputs.len()));
        Ok(())
    }

    fn gather_on_device(&mut self, outputs: &[(usize, u32)]) -> Result<(), ExecError> {
        let mut first = 0;
        for run in outputs.chunk_by(|a, b| a.0 == b.0) {
            let rows: Vec<u32> = run.iter().map(|&(_, row)| row).collect();
            self.flush()?;
            self.device.write(self.workspace.outputs, 0, bytemuck::cast_slice(&rows))?;
            let (spec, w) = (self.files.spec(), &self.workspace);
            self.pending.extend(forward::gather_calls(spec, w, run[0].0, (first, run.len())));
            first += run.len();
        }
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
