//! Runs steps on a device.

use super::ExecError;
use super::clock::Clock;
use super::config::ExecutorConfig;
use super::host::HostAttention;
use super::pager::Pager;
use super::resting::Resting;
use super::reused::Reused;
use super::streams::Streams;
use super::trace::{Trace, TraceEvent};
use super::traffic::Traffic;
use crate::backend::{Device, DeviceInfo, MemoryUse};
use crate::forward::{self, BoundHead, BoundLayer, Turn, Workspace};
use crate::kernel::{Buffer, Call, PAGE_LEN};
use crate::model::{LayerSpec, ModelSpec};
use crate::schedule::{Batch, Part, Step, StreamPlan, head_steps};
use crate::store::{AlignedBuffer, ModelFiles, Throttle};
use forebay_planner::Tier;
use std::collections::HashMap;
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
    pub(super) in_ram: HashMap<usize, InRam>,
    pub(super) host_ring: Option<AlignedBuffer>,
    pub(super) device: Box<dyn Device>,
    pub(super) files: Arc<ModelFiles>,
    pub(super) config: ExecutorConfig,
    pub(super) plan: StreamPlan,
    pub(super) ring: Option<Buffer>,
    pub(super) layers: Vec<BoundLayer>,
    pub(super) head: BoundHead,
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
    pub(super) reused: Reused,
    /// For each row of the last pass its micro-batch and its row there, and the number of micro-batches.
    pub(super) last: (Vec<(usize, u32)>, usize),
    pub(super) uploaded_bytes: u64,
    /// Streams of the coming pass that were uploaded before it began.
    pub(super) ahead: usize,
    pub(super) throttle: Option<Arc<Throttle>>,
    pub(super) poison: bool,
    pub(super) trace: Option<Trace>,
    pub(super) clock: Option<Clock>,
    /// Seconds that the event clock gives the last pass.
    pub(super) simulated: f64,
}

/// Weights at home in RAM.
pub(super) enum InRam {
    /// In a buffer from which the device copies by itself.
    Reached(Buffer),
    /// In memory of ours.
    Bytes(AlignedBuffer),
}

/// Host memory that passes reuse.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) bytes: Vec<u8>,
    pub(super) floats: Vec<f32>,
    pub(super) logits: Vec<f32>,
    pub(super) rows: Vec<u32>,
}

/// A pass under way.
pub(super) struct Pass<'a> {
    /// Empty once the layers are through and only logits are computed.
    pub(super) micro: &'a Arc<Vec<Batch>>,
    /// Whether the residual stream of its micro-batches rests in RAM.
    pub(super) rests: bool,
    /// For each output row of the pass: its micro-batch and its row there.
    pub(super) outputs: &'a [(usize, u32)],
    pub(super) each: &'a mut dyn FnMut(usize, &[f32]),
}

impl Executor {
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
        Traffic {
            read_bytes: self.streams.as_ref().map_or(0, |streams| streams.read_bytes),
            uploaded_bytes: self.uploaded_bytes,
            ..self.pager.as_ref().map(|pager| pager.moved).unwrap_or_default()
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
        // Taken out, since steps borrow the rest.
        let mut own = std::mem::take(&mut self.reused);
        let size = (self.workspace.size.micro_rows, self.config.micro_pages());
        own.fill(batch, size, &self.plan, self.workspace.size.logit_rows);
        let (outputs, steps) = (&own.outputs, &own.steps);
        let micro = own.micro.as_ref().expect("it was just filled");
        let rests = self.plan.rows_rest(micro.len());
        self.play(&steps.1, &mut Pass { micro, rests, outputs, each })?;
        self.passes += 1;
        self.ahead = 0;
        self.last.0.clear();
        for (at, batch) in micro.iter().enumerate() {
            self.last.0.extend((0..batch.rows() as u32).map(|row| (at, row)));
        }
        self.last.1 = micro.len();
        if let Some(clock) = &mut self.clock {
            self.simulated = clock.pass(&self.plan, &steps.1, micro);
        }
        self.reused = own;
        Ok(())
    }

    /// Computes logits of more rows of the last pass, as [`Executor::pass`] does of its outputs. A head
    /// that streams has gone by then: it must not.
    pub fn logits_of(
        &mut self,
        rows: &[usize],
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), ExecError> {
        let (last, micro_batches) = &self.last;
        let outputs: Vec<(usize, u32)> = rows.iter().map(|&row| last[row]).collect();
        let rests = self.plan.rows_rest(*micro_batches);
        let slices = outputs.len().div_ceil(self.workspace.size.logit_rows);
        let steps = head_steps(&self.plan, slices);
        self.play(&steps, &mut Pass { micro: &Arc::default(), rests, outputs: &outputs, each })?;
        if let Some(clock) = &mut self.clock {
            self.simulated += clock.logits(&self.plan, &steps, outputs.len());
        }
        Ok(())
    }

    /// Puts what happened to draft trees since `start` into the trace, if there is one.
    pub fn note(&mut self, start: Instant, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.trees(what(), self.passes, start);
        }
    }

    /// Lets simulated time pass in which something else computes; reads go on.
    pub fn idle(&mut self, seconds: f64) {
        if let Some(clock) = &mut self.clock {
            clock.idle(seconds);
        }
    }

    pub(super) fn play(&mut self, steps: &[Step], pass: &mut Pass<'_>) -> Result<(), ExecError> {
        let ahead = self.ahead;
        for &step in steps.iter().filter(|step| !step.is_made(ahead)) {
            let start = Instant::now();
            self.step(step, pass)?;
            if let Some(trace) = &mut self.trace {
                trace.step(step, self.passes, start);
            }
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
                if !self.plan.shares_ram {
                    self.flush()?;
                }
                let pager = self.pager.as_mut().expect("a pager was made");
                pager.load(self.device.as_mut(), layer, &pass.micro[micro])
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
                self.run(part, micro, &pass.micro[micro]);
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
                self.pending.push(forward::head_call(spec, &self.head, w, index, rows));
                Ok(())
            }
            Step::Logits { slice } => self.logits(slice, pass),
        }
    }

    /// Gives the device what was recorded.
    pub(super) fn flush(&mut self) -> Result<(), ExecError> {
        if !self.pending.is_empty() {
            let ran = self.device.run(&self.pending);
            self.pending.clear();
            ran?;
        }
        Ok(())
    }

    fn run(&mut self, part: usize, micro: usize, batch: &Batch) {
        let rows = batch.rows();
        let Executor { files, workspace: w, layers, pending: calls, .. } = self;
        let turn = |layer| Turn::new(files.spec(), layer, &layers[layer], w, (micro, rows));
        match self.plan.parts[part].part {
            Part::Attention(layer) if self.plan.host_attention => turn(layer).qkv(calls),
            Part::Attention(layer) => {
                let (m, way) = (&w.micro[micro], (batch.moves().len(), batch.longest()));
                let view = match self.caches[layer] {
                    Some(cache) => m.view(cache, way),
                    None => {
                        let window = self.window.expect("pages were awaited");
                        m.window_view(window, w.identity, way)
                    }
                };
                turn(layer).attention(&view, calls);
            }
            Part::FeedForward(layer) => {
                if self.plan.host_attention {
                    turn(layer).output(calls);
                }
                turn(layer).feed_forward(calls);
            }
            Part::Head(_) => unreachable!("the head is not run over micro-batches"),
        }
    }
}
