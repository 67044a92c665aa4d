//! From what is asked and what there is to a plan, and from a plan to the sizes of an engine.

use super::budget::Amounts;
use super::engine::Model;
use super::exit::CliError;
use crate::backend::Device;
use crate::exec::{ExecutorConfig, ExecutorFootprint, model_shape};
use crate::generate::EngineConfig;
use crate::job::{LINE_BYTES, Survey};
use crate::kernel::{KvFormat, PAGE_LEN};
use crate::quant::SEGMENT_BYTES_MAX;
use crate::sample::sampling_bytes;
use crate::schedule::{Homes, Matrices, RingSizes, StreamPlan};
use crate::store::{ModelFiles, StoreError};
use forebay_planner::{
    HardwareProfile, Inputs, ModelShape, Pins, Plan, PlanError, Policy, Requests, Speculation,
    Split, Tier, Workload, plan, predict,
};
use std::path::PathBuf;

/// RAM for what no account lists: stacks, the job's lines, the allocator's own.
const SLACK_BYTES: u64 = 24 << 20;

/// Segments that may have been read and not yet uploaded to a device that shares memory.
const LANDING_SEGMENTS: usize = 4;

/// Everything a plan is made from but the device.
#[derive(Clone)]
pub(super) struct Question<'a> {
    /// What is known of draft trees, if there are to be any.
    pub(super) speculation: Option<Speculation>,
    pub(super) model: &'a Model,
    pub(super) profile: &'a HardwareProfile,
    pub(super) survey: &'a Survey,
    pub(super) amounts: Amounts,
    pub(super) pins: Pins,
    /// Longest sequence.
    pub(super) context_len: usize,
    /// Format of the KV cache: decided before anything is planned, since tokens depend on it.
    pub(super) kv_format: KvFormat,
    /// Threads of attention on the host.
    pub(super) threads: Option<usize>,
    /// Folder of packed weights and spilled pages.
    pub(super) folder: PathBuf,
}

/// A question in the planner's own terms.
pub(super) struct Asked<'a> {
    question: &'a Question<'a>,
    shape: ModelShape,
    workload: Workload,
    budgets: Split,
    formats: [String; 1],
    /// What every policy takes: what this process holds already, and the device's own buffers. Looked
    /// at once: what planning takes meanwhile is gone before anything is allocated.
    base: Split,
    /// RAM that reads land in, for a device that shares memory and yet takes nothing from where it lies: what
    /// is read is uploaded from there. The base has it, too.
    landing: usize,
}

/// A plan and what an engine is made with to follow it.
#[derive(Clone)]
pub(super) struct Planned {
    pub(super) plan: Plan,
    pub(super) budgets: Split,
    pub(super) engine: EngineConfig,
    pub(super) executor: ExecutorConfig,
    pub(super) shares_ram: bool,
    /// What was taken before anything was allocated.
    base: Split,
}

/// The workload as a planner sees it.
pub(super) fn workload(survey: &Survey) -> Workload {
    let requests = survey.requests.iter().map(|lengths| {
        let output = survey.learned.output(lengths.output_max, lengths.fixed);
        Requests { prompt: lengths.prompt.max(1), output, count: lengths.count }
    });
    Workload { requests: requests.collect(), longest: survey.longest, ..Workload::default() }
}

impl<'a> Question<'a> {
    pub(super) fn ask(&'a self, device: &dyn Device) -> Result<Asked<'a>, StoreError> {
        let shares_ram = self.profile.shares_ram;
        let lands = shares_ram && !device.info().computes_in_ram();
        let landing = if lands { LANDING_SEGMENTS * SEGMENT_BYTES_MAX } else { 0 };
        let mut base = base(device, shares_ram, self.model.files.spec().vocab);
        base.ram += landing as u64 + LINE_BYTES * self.survey.lines;
        Ok(Asked {
            shape: model_shape(&self.model.files, self.pins.host_attention == Some(true))?,
            workload: Workload { speculation: self.speculation.clone(), ..workload(self.survey) },
            budgets: self.amounts.resolve(device.info(), &self.folder),
            formats: [self.kv_format.name().to_string()],
            base,
            landing,
            question: self,
        })
    }
}

impl Planned {
    /// Bytes that the device may hold, `held` of which it does: the budget less what others take.
    pub(super) fn device_limit(&self, held: u64) -> u64 {
        match self.shares_ram {
            // The draft has a device of its own.
            true => {
                let others = self.base.ram + self.plan.memory.draft.ram;
                held + self.budgets.ram.saturating_sub(others)
            }
            false => self.budgets.device.saturating_sub(self.plan.memory.draft.device),
        }
    }

    /// Bytes that the draft's own device may hold: what the plan counts for it there.
    pub(super) fn draft_limit(&self) -> u64 {
        let draft = self.plan.memory.draft;
        match self.plan.policy.draft {
            Some(Tier::Device) => draft.device,
            _ => draft.ram,
        }
    }
}

impl Asked<'_> {
    /// Lowers the budgets.
    pub(super) fn take_away(&mut self, less: Split) {
        self.budgets.device = self.budgets.device.saturating_sub(less.device);
        self.budgets.ram = self.budgets.ram.saturating_sub(less.ram);
    }

    fn with<T>(
        &self,
        device: &dyn Device,
        answer: impl Fn(&Inputs<'_>) -> Result<T, PlanError>,
    ) -> anyhow::Result<T> {
        let files = &self.question.model.files;
        let kv = (self.question.kv_format, self.question.context_len);
        let threads = self.question.threads;
        let footprint = ExecutorFootprint::new(files, device, self.base, kv, threads)?;
        let inputs = Inputs {
            model: &self.shape,
            footprint: &footprint,
            hardware: self.question.profile,
            workload: &self.workload,
            budgets: self.budgets,
            kv_formats: &self.formats,
            pins: &self.question.pins,
        };
        answer(&inputs).map_err(|error| CliError::from(error).into())
    }

    /// As if no more were held than when `planned` was made, within its budgets.
    pub(super) fn stand_where(&mut self, planned: &Planned) {
        (self.base, self.budgets) = (planned.base, planned.budgets);
    }

    /// Predicted seconds of what is asked under a policy.
    pub(super) fn seconds(&self, device: &dyn Device, policy: &Policy) -> anyhow::Result<f64> {
        Ok(self.with(device, |inputs| predict(inputs, policy))?.seconds())
    }

    /// The best plan.
    pub(super) fn plan(&self, device: &dyn Device) -> anyhow::Result<Planned> {
        let plan = self.with(device, plan)?;
        self.realise(plan)
    }

    /// What is predicted of a policy that was decided elsewhere.
    pub(super) fn predict(&self, device: &dyn Device, policy: &Policy) -> anyhow::Result<Planned> {
        let plan = self.with(device, |inputs| predict(inputs, policy))?;
        self.realise(plan)
    }

    fn realise(&self, plan: Plan) -> anyhow::Result<Planned> {
        let base = self.base;
        let policy = &plan.policy;
        let (batch, prefill_chunk) = (policy.batch, policy.prefill_chunk);
        let tree_budget = policy.tree_budget;
        let context_len = self.question.context_len;
        let engine = EngineConfig { batch, prefill_chunk, context_len, tree_budget };
        let shares_ram = self.question.profile.shares_ram;
        let files = &self.question.model.files;
        let executor = executor_config(files, policy, shares_ram, self.landing)?;
        let readers = self.question.profile.disk.queue_depth.clamp(1, 8);
        let kv_format = self.question.kv_format;
        let executor = ExecutorConfig { readers, kv_format, positions: context_len, ..executor };
        Ok(Planned { plan, budgets: self.budgets, engine, executor, shares_ram, base })
    }
}

fn base(device: &dyn Device, shares_ram: bool, vocab: usize) -> Split {
    super::memory::give_back();
    let held = super::memory::resident_bytes().unwrap_or(64 << 20);
    // Memory that the device shares is in the resident bytes already.
    let own = if shares_ram { 0 } else { device.memory().bytes };
    let ram = held + SLACK_BYTES + sampling_bytes(vocab) as u64;
    Split { device: own, ram, disk: 0 }
}

/// Sizes and homes that a policy stands for.
fn executor_config(
    files: &ModelFiles,
    policy: &Policy,
    shares_ram: bool,
    landing: usize,
) -> Result<ExecutorConfig, StoreError> {
    let spec = files.spec();
    let host_attention = policy.host_attention;
    let matrices = Matrices::new(spec, |id| files.packing(id))?.attending_on_host(host_attention);
    // Where the device computes in RAM, what is there is at hand.
    let home = |&tier: &Tier| if shares_ram && tier == Tier::Ram { Tier::Device } else { tier };
    let homes = Homes::from_list(&matrices, policy.homes.iter().flatten().map(home));
    let least = StreamPlan::rings_min(spec, &matrices, &homes, shares_ram && landing == 0);
    let streams = policy.ring.ram > 0;
    let planned = match shares_ram {
        true => {
            RingSizes { device: policy.ring.ram as usize, host: if streams { landing } else { 0 } }
        }
        false => RingSizes { device: policy.ring.device as usize, host: policy.ring.ram as usize },
    };
    let cache_homes: Vec<Tier> = match host_attention {
        true => policy.kv_homes.clone(),
        false => policy.kv_homes.iter().map(home).collect(),
    };
    let away = !host_attention && cache_homes.iter().any(|&home| home != Tier::Device);
    Ok(ExecutorConfig {
        micro_rows: policy.micro_batch,
        outputs: policy.outputs(),
        homes,
        rings: RingSizes {
            device: planned.device.max(least.device),
            host: planned.host.max(least.host),
        },
        cache_homes,
        host_attention,
        window_pages: if away { policy.window_pages } else { 0 },
        activations: if shares_ram { Tier::Device } else { policy.activations },
        ..ExecutorConfig::resident(policy.rows(), policy.pages)
    })
}

/// Part of the sequences that are sampled without noise, where all have one temperature.
pub(super) fn greedy(temperature: f32) -> f64 {
    if temperature <= 0.0 { 1.0 } else { 0.0 }
}

/// The survey of an input that cannot be read twice: nothing is known but the longest sequence, and what is
/// sampled without noise if lines do not say otherwise.
pub(super) fn unknown(context_len: usize, greedy: f64) -> Survey {
    let output_max = (context_len / 4).clamp(1, 256);
    let prompt = (context_len - output_max).min(256);
    let lengths = crate::job::Lengths { prompt, output_max, fixed: false, count: 1024 };
    let longest = context_len.next_multiple_of(PAGE_LEN);
    Survey { requests: vec![lengths], longest, greedy, ..Survey::default() }
}
