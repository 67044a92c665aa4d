//! The simulated clock: every pass that is run is also played on the schedule's event clock, at the
//! rates of a measured profile.

use super::mover::stride;
use crate::kernel::{CacheLayout, KvFormat, PAGE_LEN};
use crate::schedule::{
    Batch, Matrices, PageSeconds, Part, Simulation, Step, StepCosts, StreamPlan,
};
use forebay_planner::{AttentionRate, DeviceRates, HardwareProfile, LayerShape, ModelShape, Tier};

/// A simulation that follows an executor.
pub(super) struct Clock {
    simulation: Simulation,
    profile: HardwareProfile,
    shape: ModelShape,
    kv_format: KvFormat,
    /// Weight elements of each part by storage type.
    elements: Vec<Vec<(String, f64)>>,
}

impl Clock {
    pub(super) fn new(
        matrices: &Matrices,
        plan: &StreamPlan,
        shape: ModelShape,
        profile: HardwareProfile,
        kv_format: KvFormat,
    ) -> Clock {
        let of_part = |part: &crate::schedule::PartPlan| {
            let mut sums: Vec<(String, f64)> = Vec::new();
            for piece in &part.segments {
                let packing = matrices.packing(piece.tensor);
                let (dtype, count) =
                    (packing.dtype.to_string(), (piece.segment.rows * packing.cols) as f64);
                match sums.iter_mut().find(|(known, _)| *known == dtype) {
                    Some((_, sum)) => *sum += count,
                    None => sums.push((dtype, count)),
                }
            }
            sums
        };
        let elements = plan.parts.iter().map(of_part).collect();
        Clock { simulation: Simulation::new(plan), profile, shape, kv_format, elements }
    }

    /// Seconds of all passes that the device computes.
    pub(super) fn computed(&self) -> f64 {
        self.simulation.computed()
    }

    /// Seconds of all passes that the host attends.
    pub(super) fn attended(&self) -> f64 {
        self.simulation.attention()
    }

    /// Plays a pass; returns its seconds.
    pub(super) fn pass(&mut self, plan: &StreamPlan, steps: &[Step], micro: &[Batch]) -> f64 {
        let outputs: usize = micro.iter().map(|batch| batch.outputs.len()).sum();
        let slices = steps.iter().filter(|step| matches!(step, Step::Gather { .. })).count();
        // Taken out, since costs borrow the rest.
        let mut simulation = std::mem::take(&mut self.simulation);
        let before = simulation.now();
        let costs = Costs { clock: self, plan, micro, outputs: outputs.div_ceil(slices.max(1)) };
        let rows: usize = micro.iter().map(Batch::rows).sum();
        let device = &self.profile.device;
        simulation.idle(device.pass_seconds + rows as f64 * device.embed_seconds);
        simulation.pass(plan, steps, &costs);
        let logits = outputs as f64 * self.shape.vocab as f64 * device.logit_seconds;
        simulation.idle(logits);
        self.simulation = simulation;
        self.simulation.now() - before
    }

    /// Plays the computation of `rows` rows of logits after a pass; returns its seconds.
    pub(super) fn logits(&mut self, plan: &StreamPlan, steps: &[Step], rows: usize) -> f64 {
        let slices = steps.iter().filter(|step| matches!(step, Step::Gather { .. })).count();
        let costs = Costs { clock: self, plan, micro: &[], outputs: rows.div_ceil(slices.max(1)) };
        let head: f64 = steps.iter().map(|&step| costs.compute_seconds(step)).sum();
        let logits = (rows * self.shape.vocab) as f64 * self.profile.device.logit_seconds;
        self.simulation.idle(head + logits);
        head + logits
    }

    /// Seconds in which the device computes the steps of one micro-batch, nothing awaited.
    pub(super) fn computing(&self, plan: &StreamPlan, steps: &[Step], micro: &[Batch]) -> f64 {
        let device = &self.profile.device;
        let (rows, outputs) = (micro[0].rows() as f64, micro[0].outputs.len());
        let slices = steps.iter().filter(|step| matches!(step, Step::Gather { .. })).count();
        let costs = Costs { clock: self, plan, micro, outputs: outputs.div_ceil(slices.max(1)) };
        let computed: f64 = steps.iter().map(|&step| costs.compute_seconds(step)).sum();
        let logits = (outputs * self.shape.vocab) as f64 * device.logit_seconds;
        device.pass_seconds + rows * device.embed_seconds + computed + logits
    }

    /// Plays uploads before a pass.
    pub(super) fn fill_ahead(&mut self, plan: &StreamPlan) {
        let mut simulation = std::mem::take(&mut self.simulation);
        simulation.fill_ahead(plan, &Costs { clock: self, plan, micro: &[], outputs: 0 });
        self.simulation = simulation;
    }

    /// Lets time pass.
    pub(super) fn idle(&mut self, seconds: f64) {
        self.simulation.idle(seconds);
    }
}

/// Seconds of a copy; none where memory is shared, and no rate is known.
fn seconds(bytes: f64, rate: f64) -> f64 {
    if rate > 0.0 { bytes / rate } else { 0.0 }
}

/// What the steps of one pass cost.
struct Costs<'a> {
    clock: &'a Clock,
    plan: &'a StreamPlan,
    micro: &'a [Batch],
    /// Rows of a slice of logits.
    outputs: usize,
}

impl Costs<'_> {
    fn linear(&self, part: usize, rows: usize) -> f64 {
        let device = &self.clock.profile.device;
        let of = |(dtype, elements): &(String, f64)| {
            device.linear(dtype).map_or(0.0, |rate| elements * rate.seconds(rows))
        };
        self.clock.elements[part].iter().map(of).sum()
    }

    /// Attention by the device or the host.
    fn attention(&self, layer: &LayerShape, batch: &Batch, by: &DeviceRates) -> f64 {
        let format = self.clock.kv_format.name();
        let Some(rate) = by.attention(format) else { return 0.0 };
        let window = layer.window.unwrap_or(usize::MAX);
        let seen: usize = batch.map.iter().map(|row| (row.length as usize).min(window)).sum();
        let AttentionRate { stream_seconds, kv_element_seconds, product_seconds, .. } = rate;
        let kv = 2.0 * (layer.kv_heads * layer.head_dim) as f64;
        let products = 2.0 * (layer.heads * layer.head_dim) as f64 * product_seconds;
        let there = (batch.pages.len() * PAGE_LEN) as f64;
        there * kv * stream_seconds + seen as f64 * (kv * kv_element_seconds + products)
    }

    /// Bytes of a micro-batch's residual stream.
    fn rows(&self, micro: usize) -> f64 {
        self.floats(micro, self.clock.shape.hidden)
    }

    /// Bytes of so many f32 for each of a micro-batch's rows.
    fn floats(&self, micro: usize, each: usize) -> f64 {
        (self.micro[micro].rows() * each * size_of::<f32>()) as f64
    }

    fn run(&self, part: usize, micro: usize) -> f64 {
        let (batch, shape) = (&self.micro[micro], &self.clock.shape);
        let (device, rows) = (&self.clock.profile.device, batch.rows());
        let (half, layer) = match self.plan.parts[part].part {
            Part::Attention(layer) => (forebay_planner::Part::Attention, layer),
            Part::FeedForward(layer) => (forebay_planner::Part::FeedForward, layer),
            Part::Head(_) => return 0.0,
        };
        let layer = &shape.layers[layer];
        let touched = (rows * layer.touched_floats(half, shape.hidden)) as f64;
        let attention = match half {
            forebay_planner::Part::Attention if !self.plan.host_attention => {
                self.attention(layer, batch, device)
            }
            _ => 0.0,
        };
        self.linear(part, rows)
            + touched * device.elementwise_seconds
            + attention
            + half.calls() * device.call_seconds
            + device.run_seconds
    }
}

impl StepCosts for Costs<'_> {
    fn compute_seconds(&self, step: Step) -> f64 {
        let profile = &self.clock.profile;
        match step {
            Step::Run { part, micro } => self.run(part, micro),
            Step::Head { part, .. } => self.linear(part, self.outputs) + profile.device.run_seconds,
            Step::Attend { layer, micro } => {
                let layer = &self.clock.shape.layers[layer];
                let floats = layer.query_len() + 2 * layer.kv_len();
                seconds(self.floats(micro, floats), profile.download_bytes_per_sec)
            }
            Step::AwaitAttention { layer, micro } => {
                let floats = self.clock.shape.layers[layer].query_len();
                seconds(self.floats(micro, floats), profile.upload_bytes_per_sec)
            }
            Step::LoadRows { micro } => seconds(self.rows(micro), profile.upload_bytes_per_sec),
            Step::StoreRows { micro } => seconds(self.rows(micro), profile.download_bytes_per_sec),
            _ => 0.0,
        }
    }

    fn attention_seconds(&self, step: Step) -> f64 {
        let Step::Attend { layer, micro } = step else { return 0.0 };
        let layer = &self.clock.shape.layers[layer];
        self.attention(layer, &self.micro[micro], &self.clock.profile.host)
    }

    fn read_seconds(&self, bytes: usize) -> f64 {
        bytes as f64 / self.clock.profile.disk.read_bytes_per_sec
    }

    fn upload_seconds(&self, bytes: usize) -> f64 {
        seconds(bytes as f64, self.clock.profile.upload_bytes_per_sec)
    }

    fn upload_overlap(&self) -> f64 {
        self.clock.profile.upload_overlap
    }

    fn read_overlap(&self) -> f64 {
        self.clock.profile.disk.overlap
    }

    fn page_seconds(&self, step: Step) -> PageSeconds {
        let profile = &self.clock.profile;
        let (layer, pages, disk_rate) = match step {
            Step::LoadPages { layer, micro } | Step::AwaitPages { layer, micro } => {
                (layer, self.micro[micro].pages.len(), profile.disk.read_bytes_per_sec)
            }
            Step::StorePages { layer, micro } => {
                let written = self.micro[micro].pages_written().len();
                (layer, written, profile.disk.write_bytes_per_sec)
            }
            _ => return PageSeconds::default(),
        };
        let LayerShape { kv_heads, head_dim, .. } = self.clock.shape.layers[layer];
        let layout = CacheLayout { kv_heads, head_dim, format: self.clock.kv_format };
        let on_disk = self.plan.caches[layer] == Tier::Disk;
        let disk = if on_disk { (pages * stride(layout.page_bytes())) as f64 } else { 0.0 };
        let bytes = if self.plan.shares_ram { 0.0 } else { (pages * layout.page_bytes()) as f64 };
        let link = match step {
            Step::AwaitPages { .. } => seconds(bytes, profile.upload_bytes_per_sec),
            Step::StorePages { .. } if bytes > 0.0 => {
                let wait = if on_disk { profile.device.pass_seconds } else { 0.0 };
                seconds(bytes, profile.download_bytes_per_sec) + wait
            }
            _ => 0.0,
        };
        PageSeconds { disk: disk / disk_rate, link }
    }
}
