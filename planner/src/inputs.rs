//! Everything a plan is made from, and its checks.

use crate::error::PlanError;
use crate::footprint::Footprint;
use crate::hardware::{DeviceRates, HardwareProfile};
use crate::policy::{Split, Tier};
use crate::shape::ModelShape;
use crate::workload::Workload;

/// What a plan is made from.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// The model.
    pub model: &'a ModelShape,
    /// The allocator's sizes.
    pub footprint: &'a dyn Footprint,
    /// The machine.
    pub hardware: &'a HardwareProfile,
    /// The job, or what is left of it.
    pub workload: &'a Workload,
    /// Most bytes on each tier. Weights that stay in the model file do not count as disk. The
    /// device's is ignored where it computes in host memory.
    pub budgets: Split,
    /// Cache formats that may be used.
    pub kv_formats: &'a [String],
    /// What is already decided.
    pub pins: &'a Pins,
}

/// Fixed parts of the policy; all optional.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pins {
    /// Fractions of the weights' bytes, met within a segment.
    pub weights: PinnedSplit,
    /// Fractions of the cache's layers, met within a layer.
    pub kv: PinnedSplit,
    /// [`Policy::batch`](crate::Policy::batch), at most.
    pub batch: Option<usize>,
    /// [`Policy::micro_batch`](crate::Policy::micro_batch).
    pub micro_batch: Option<usize>,
    /// [`Policy::prefill_chunk`](crate::Policy::prefill_chunk).
    pub prefill_chunk: Option<usize>,
    /// [`Policy::kv_format`](crate::Policy::kv_format); must be among the formats allowed.
    pub kv_format: Option<String>,
    /// [`Policy::host_attention`](crate::Policy::host_attention).
    pub host_attention: Option<bool>,
    /// [`Policy::tree_budget`](crate::Policy::tree_budget); need not be among those offered.
    pub tree_budget: Option<usize>,
    /// [`Policy::draft`](crate::Policy::draft), where the policy speculates at all.
    pub draft: Option<Tier>,
}

/// Pinned fractions, 0 to 1; what two pins leave is the third.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PinnedSplit {
    /// On the device.
    pub device: Option<f64>,
    /// In RAM.
    pub ram: Option<f64>,
    /// On disk.
    pub disk: Option<f64>,
}

impl PinnedSplit {
    /// In the order of [`Tier::ALL`](crate::Tier::ALL).
    pub(crate) fn fractions(&self) -> [Option<f64>; 3] {
        [self.device, self.ram, self.disk]
    }

    /// Whether anything is pinned.
    pub fn is_free(&self) -> bool {
        *self == PinnedSplit::default()
    }

    fn check(&self, what: &str, shares_ram: bool) -> Result<(), PlanError> {
        let given = || self.fractions().into_iter().flatten();
        if let Some(bad) = given().find(|f| !(0.0..=1.0).contains(f)) {
            return Err(bad_input(format!("{what}: a fraction of {bad} is not between 0 and 1")));
        }
        let sum: f64 = given().sum();
        let all = given().count() == 3;
        if sum > 1.0 + 1e-9 || (all && sum < 1.0 - 1e-9) {
            return Err(bad_input(format!("{what}: pinned fractions add up to {sum}, not to 1")));
        }
        if shares_ram && self.device.is_some_and(|f| f > 0.0) {
            let why = "this device computes in host memory and has none of its own";
            return Err(bad_input(format!("{what}: {why}; pin a fraction of RAM instead")));
        }
        Ok(())
    }
}

fn bad_input(message: String) -> PlanError {
    PlanError::BadInput(message)
}

impl Inputs<'_> {
    /// The bytes that can be used: none on the device where it has none of its own.
    pub(crate) fn capacity(&self) -> Split {
        if self.hardware.shares_ram { Split { device: 0, ..self.budgets } } else { self.budgets }
    }

    /// Refuses what no plan can be made from.
    pub(crate) fn check(&self) -> Result<(), PlanError> {
        self.check_model()?;
        self.check_workload()?;
        check_profile(self.hardware)?;
        let pins = self.pins;
        pins.weights.check("pinned weights", self.hardware.shares_ram)?;
        pins.kv.check("pinned cache", self.hardware.shares_ram)?;
        let [device, ram, disk] = pins.kv.fractions();
        let elsewhere = [device, disk, ram.map(|f| 1.0 - f)].into_iter().flatten().any(|f| f > 0.0);
        if pins.host_attention == Some(true) && elsewhere {
            let why = "the host attends over RAM alone; pin all of it there, or nothing";
            return Err(bad_input(format!("pinned cache: {why}")));
        }
        for (what, size) in [
            ("batch", pins.batch),
            ("micro-batch", pins.micro_batch),
            ("prefill chunk", pins.prefill_chunk),
        ] {
            if size == Some(0) {
                return Err(bad_input(format!("a pinned {what} of 0 does no work")));
            }
        }
        if let Some(format) = &pins.kv_format
            && !self.kv_formats.contains(format)
        {
            let known = self.kv_formats.join(", ");
            return Err(bad_input(format!("cache format {format:?} is not among {known}")));
        }
        self.check_trees()
    }

    /// Draft trees that are pinned must be possible.
    fn check_trees(&self) -> Result<(), PlanError> {
        let (pins, speculation) = (self.pins, self.workload.speculation.as_ref());
        let grown = pins.tree_budget.is_some_and(|budget| budget > 0);
        if let Some(home) = pins.draft
            && pins.tree_budget != Some(0)
            && speculation.is_none_or(|s| s.draft_at(home).is_none())
        {
            return Err(bad_input(format!("no draft model is known that could live in {home}")));
        }
        if grown && speculation.is_none() {
            return Err(bad_input("draft trees are pinned, and nothing is known of them".into()));
        }
        let most_near = |pins: &PinnedSplit| {
            let [device, ram, disk] = pins.fractions();
            let shares_ram = self.hardware.shares_ram;
            let (near, far) =
                if shares_ram { (ram, [device, disk]) } else { (device, [ram, disk]) };
            near.unwrap_or(1.0 - far.into_iter().flatten().sum::<f64>())
        };
        if grown && self.workload.target_draft().is_some() {
            let why = "the model drafts for itself over its own cache, where the device computes";
            if pins.host_attention == Some(true) {
                return Err(bad_input(format!("attention is to run on the host, and {why}")));
            }
            if most_near(&pins.kv) <= 1.0 - 1e-9 {
                return Err(bad_input(format!(
                    "a part of the cache is to live elsewhere, and {why}"
                )));
            }
        }
        let most = most_near(&pins.weights);
        if grown && most * (self.model.weight_bytes() as f64) < self.model.head.bytes() as f64 {
            let why = "draft trees need the output head where the device computes";
            return Err(bad_input(format!("pinned weights leave it no room: {why}")));
        }
        Ok(())
    }

    fn check_model(&self) -> Result<(), PlanError> {
        let model = self.model;
        if model.layers.is_empty() || model.page_positions == 0 {
            return Err(bad_input("the model has no layers, or pages of no positions".into()));
        }
        if model.matrices().any(|m| m.segments.is_empty() || m.segments.contains(&0)) {
            return Err(bad_input("a matrix has no segments, or an empty one".into()));
        }
        if self.kv_formats.is_empty() {
            return Err(bad_input("no cache format is allowed".into()));
        }
        for format in self.kv_formats {
            let layers = 0..model.layers.len();
            if let Some(layer) =
                layers.into_iter().find(|&l| self.footprint.page_bytes(l, format) == 0)
            {
                return Err(bad_input(format!(
                    "a cache page of layer {layer} in {format} has no bytes"
                )));
            }
        }
        Ok(())
    }

    fn check_workload(&self) -> Result<(), PlanError> {
        let job = self.workload;
        if job.count() == 0 {
            return Err(bad_input("the workload has no requests".into()));
        }
        let empty = job.requests.iter().any(|r| r.count > 0 && (r.prompt == 0 || r.output == 0));
        if empty {
            return Err(bad_input("a request has no prompt or generates nothing".into()));
        }
        let shares_ram = self.hardware.shares_ram;
        if let Some(fault) = job.speculation.as_ref().and_then(|s| s.fault(shares_ram)) {
            return Err(bad_input(format!("speculation: {fault}")));
        }
        Ok(())
    }
}

/// Rates must be positive and finite where they are used, times finite and not negative.
fn check_profile(hardware: &HardwareProfile) -> Result<(), PlanError> {
    let bad = |what: &str, value: f64| {
        Err(bad_input(format!("hardware profile: {what} is {value}; calibrate again")))
    };
    let own_memory = !hardware.shares_ram;
    for (what, rate, used) in [
        ("disk read rate", hardware.disk.read_bytes_per_sec, true),
        ("disk write rate", hardware.disk.write_bytes_per_sec, true),
        ("upload rate", hardware.upload_bytes_per_sec, own_memory),
        ("download rate", hardware.download_bytes_per_sec, own_memory),
    ] {
        if used && !(rate.is_finite() && rate > 0.0) {
            return bad(what, rate);
        }
    }
    let overlaps =
        [("disk overlap", hardware.disk.overlap), ("upload overlap", hardware.upload_overlap)];
    for (what, overlap) in overlaps {
        if !(0.0..=1.0).contains(&overlap) {
            return bad(what, overlap);
        }
    }
    check_rates("device", &hardware.device, true)?;
    check_rates("host", &hardware.host, false)
}

fn check_rates(whose: &str, rates: &DeviceRates, linear: bool) -> Result<(), PlanError> {
    let empty = rates.attention.is_empty()
        || (linear
            && (rates.linear.is_empty() || rates.linear.iter().any(|r| r.points.is_empty())));
    if empty {
        let what = if rates.attention.is_empty() { "attention" } else { "linear layers" };
        return Err(bad_input(format!("hardware profile: no rates of the {whose}'s {what}")));
    }
    let points = rates.linear.iter().flat_map(|r| &r.points);
    if points.clone().any(|&(rows, _)| rows == 0) {
        return Err(bad_input(format!("hardware profile: the {whose} has a rate at 0 rows")));
    }
    let attention = rates.attention.iter().flat_map(|r| [r.kv_element_seconds, r.product_seconds]);
    let fixed = [
        rates.elementwise_seconds,
        rates.logit_seconds,
        rates.greedy_seconds,
        rates.embed_seconds,
        rates.run_seconds,
        rates.pass_seconds,
    ];
    let mut times = points.map(|&(_, seconds)| seconds).chain(attention).chain(fixed);
    match times.find(|seconds| !(seconds.is_finite() && *seconds >= 0.0)) {
        Some(bad) => {
            Err(bad_input(format!("hardware profile: the {whose} takes {bad} s; calibrate again")))
        }
        None => Ok(()),
    }
}
