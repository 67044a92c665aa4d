//! The search: sizes of passes enumerated outside, the linear program inside, the best made real.

use crate::cost::{Costs, KvMode, Placement, Setting};
use crate::error::PlanError;
use crate::fit;
use crate::inputs::Inputs;
use crate::lp::{self, Decided};
use crate::passes::{Composition, Job, Pass, compose, condense};
use crate::pipeline::Stream;
use crate::plan::Terms;
use crate::policy::{Policy, Tier};
use crate::round::{self, Demands};

/// Passes of a job that are priced, and those that the linear program sees.
const PRICED_PASSES: usize = 16;
const PROGRAM_PASSES: usize = 3;

/// Sizes that are tried; between the batches, halves and quarters are refined later.
const BATCHES: [usize; 24] = [
    1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048,
    3072, 4096,
];
pub(crate) const CHUNKS: [usize; 8] = [16, 32, 64, 128, 256, 512, 1024, 2048];
const MICRO_BATCHES: [usize; 9] = [8, 16, 32, 64, 128, 256, 512, 1024, 2048];

/// Neighbouring parts that a ring may hold. Two is the least that overlaps at all; with three a
/// feed-forward can arrive while the one before it is used, which the program assumes.
pub(crate) const RINGS: [usize; 4] = [2, 3, 4, 6];
const RING: usize = RINGS[1];

/// A candidate that cannot be faster than this times the best is not looked at.
const PRUNE: f64 = 1.0;

/// Passes of one composition, as the search uses them.
pub(crate) struct Counted {
    passes: Vec<Pass>,
    program: Vec<Pass>,
    pages: usize,
}

impl Counted {
    fn demands(&self) -> Demands<'_> {
        Demands { passes: &self.program, pages: self.pages }
    }
}

/// A setting and the least seconds that it could take.
struct Candidate {
    setting: Setting,
    job: usize,
    bound: f64,
}

/// A setting with a placement in fractions.
struct Placed {
    setting: Setting,
    job: usize,
    placement: Placement,
    seconds: f64,
}

/// A policy with its price.
#[derive(Clone, Debug)]
pub(crate) struct Priced {
    pub(crate) setting: Setting,
    pub(crate) policy: Policy,
    pub(crate) prefill_seconds: f64,
    pub(crate) decode_seconds: f64,
    pub(crate) passes: f64,
    pub(crate) terms: Terms,
}

impl Priced {
    pub(crate) fn seconds(&self) -> f64 {
        self.prefill_seconds + self.decode_seconds
    }
}

/// Looks for the fastest policy of some inputs.
pub(crate) struct Search<'a> {
    pub(crate) inputs: Inputs<'a>,
    pub(crate) costs: Costs<'a>,
    /// Passes of every composition met; they depend on model and workload alone.
    pub(crate) jobs: Vec<(Composition, Counted)>,
}

impl<'a> Search<'a> {
    pub(crate) fn new(inputs: Inputs<'a>) -> Search<'a> {
        Search::with_jobs(inputs, Vec::new())
    }

    /// A search that starts with the jobs of another for the same model and workload.
    pub(crate) fn with_jobs(inputs: Inputs<'a>, jobs: Vec<(Composition, Counted)>) -> Search<'a> {
        Search { costs: Costs::new(&inputs), inputs, jobs }
    }

    /// Up to `most` policies, fastest first.
    pub(crate) fn run(&mut self, most: usize) -> Result<Vec<Priced>, PlanError> {
        let mut placed = self.explore();
        self.refine(&mut placed);
        placed.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        let mut seen = Vec::new();
        placed.retain(|p| {
            let Setting { batch, prefill_chunk, format, kv_mode, .. } = p.setting;
            let kind = (batch.ilog2(), prefill_chunk, format, kv_mode);
            let new = !seen.contains(&kind);
            seen.push(kind);
            new
        });
        let mut priced: Vec<Priced> =
            placed.iter().take(most).filter_map(|placed| self.realise(placed)).collect();
        if priced.is_empty() {
            let (setting, policy) = fit::smallest(&self.inputs)?;
            let job = self.job(&setting);
            priced.push(self.price(&setting, policy, &self.jobs[job].1.passes));
        }
        priced.sort_by(|a, b| a.seconds().total_cmp(&b.seconds()));
        Ok(priced)
    }

    /// Number of the job's passes in a setting.
    pub(crate) fn job(&mut self, setting: &Setting) -> usize {
        let workload = self.inputs.workload;
        let rows_per_sequence = setting.rows_per_sequence;
        let gain = workload.gains().iter().find(|(rows, _)| *rows == rows_per_sequence);
        let composition = Composition {
            batch: setting.batch,
            prefill_chunk: setting.prefill_chunk,
            rows_per_sequence,
            gain: gain.map_or(1.0, |&(_, gain)| gain),
        };
        let known = self.jobs.iter().position(|(known, _)| *known == composition);
        known.unwrap_or_else(|| {
            let Job { passes, pages } =
                compose(workload, self.inputs.model, composition, &self.costs.windows);
            let passes = condense(&passes, PRICED_PASSES);
            let program = condense(&passes, PROGRAM_PASSES);
            self.jobs.push((composition, Counted { passes, program, pages }));
            self.jobs.len() - 1
        })
    }

    pub(crate) fn counted(&self, job: usize) -> &[Pass] {
        &self.jobs[job].1.passes
    }

    /// Best placements of all settings that could be best.
    fn explore(&mut self) -> Vec<Placed> {
        let mut candidates = Vec::new();
        for (rows, _) in self.inputs.workload.gains().to_vec() {
            if self.inputs.pins.rows_per_sequence.is_none_or(|pinned| pinned == rows) {
                self.candidates(rows, &mut candidates);
            }
        }
        candidates.sort_by(|a, b| a.bound.total_cmp(&b.bound).then(a.setting.cmp(&b.setting)));
        let (mut placed, mut best) = (Vec::<Placed>::new(), f64::INFINITY);
        for candidate in &candidates {
            if candidate.bound >= best * PRUNE {
                break;
            }
            if let Some(found) = self.place(&candidate.setting, candidate.job) {
                best = best.min(found.seconds);
                placed.push(found);
            }
        }
        placed
    }

    /// All settings of some rows per sequence that memory might allow, with their bounds.
    fn candidates(&mut self, rows_per_sequence: usize, out: &mut Vec<Candidate>) {
        let pins = self.inputs.pins;
        let formats = 0..self.inputs.kv_formats.len();
        let formats: Vec<usize> = formats
            .filter(|&f| {
                pins.kv_format.as_ref().is_none_or(|pin| *pin == self.inputs.kv_formats[f])
            })
            .collect();
        for batch in batches(&self.inputs) {
            let before = out.len();
            for prefill_chunk in chunks(&self.inputs) {
                let setting = Setting {
                    batch,
                    prefill_chunk,
                    rows_per_sequence,
                    micro_batch: 1,
                    format: 0,
                    kv_mode: KvMode::Resident,
                    ring_parts: RING,
                };
                let job = self.job(&setting);
                for micro_batch in micro_batches(&self.inputs, setting.rows()) {
                    for &format in &formats {
                        for kv_mode in kv_modes(&self.inputs) {
                            let setting = Setting { micro_batch, format, kv_mode, ..setting };
                            let bound = self.bound(&setting, job);
                            out.extend(bound.map(|bound| Candidate { setting, job, bound }));
                        }
                    }
                }
            }
            // Larger batches need more of everything.
            if out.len() == before {
                break;
            }
        }
    }

    /// Seconds that no placement can beat; `None` if memory cannot hold even one.
    fn bound(&self, setting: &Setting, job: usize) -> Option<f64> {
        let (costs, hw) = (&self.costs, self.inputs.hardware);
        let counted = &self.jobs[job].1;
        let room = round::room(&self.inputs, costs, setting, counted.pages, [false; 2]);
        let [device, ram, disk] = room.free;
        let cached: f64 = room.kv.iter().sum();
        let near = if hw.shares_ram { ram } else { device };
        let resident = setting.kv_mode == KvMode::Resident;
        let holds = if resident { cached <= near } else { cached <= near + ram.max(0.0) + disk };
        if device < 0.0 || ram < 0.0 || disk < 0.0 || !holds {
            return None;
        }
        let weights = costs.layer_bytes + costs.head_bytes;
        let not_near = (weights - device + if resident { cached } else { 0.0 }).max(0.0);
        let not_in_memory = (weights + cached - device - ram).max(0.0);
        let kv = costs.kinds.iter().map(|_| near_only(hw.shares_ram)).collect();
        let best = Placement {
            layers: near_only(hw.shares_ram),
            head: near_only(hw.shares_ram),
            kv,
            activations: 0.0,
        };
        let seconds = counted.passes.iter().map(|pass| {
            let mut terms = costs.base(setting, pass);
            if setting.kv_mode != KvMode::Host {
                terms += costs.placed(setting, pass, &best);
            }
            let share = Costs::head_share(pass);
            // A byte of cache on disk is read in this part of the passes only.
            let read = (pass.pages_read / counted.pages as f64).min(1.0) * share;
            terms.disk_read = not_in_memory * read / hw.disk.read_bytes_per_sec;
            if !hw.shares_ram {
                terms.upload = not_near * share / hw.upload_bytes_per_sec;
            }
            pass.count * costs.seconds(setting, pass, &terms)
        });
        Some(seconds.sum())
    }

    fn place(&self, setting: &Setting, job: usize) -> Option<Placed> {
        let counted = &self.jobs[job].1;
        let away = round::may_be_away(setting);
        let room = round::room(&self.inputs, &self.costs, setting, counted.pages, away);
        let pins = self.inputs.pins;
        let decided = Decided { weights: pins.weights, kv_total: pins.kv, ..Decided::default() };
        let placement = lp::solve(&self.costs, setting, &counted.program, &room, &decided)?;
        let seconds = self.costs.job_seconds(setting, &counted.passes, &placement);
        Some(Placed { setting: *setting, job, placement, seconds })
    }

    /// Batches between the enumerated ones, around the best.
    fn refine(&mut self, placed: &mut Vec<Placed>) {
        if self.inputs.pins.batch.is_some() {
            return;
        }
        let fastest = |placed: &[Placed]| {
            let best = placed.iter().min_by(|a, b| a.seconds.total_cmp(&b.seconds));
            best.map(|best| best.setting)
        };
        for step in [8, 16] {
            let Some(best) = fastest(placed) else { return };
            for times in [step - 3, step - 2, step - 1, step + 1, step + 2, step + 3] {
                let batch = (best.batch * times / step).clamp(1, self.inputs.workload.count());
                let whole = best.micro_batch == best.rows();
                let mut setting = Setting { batch, ..best };
                setting.micro_batch = if whole { setting.rows() } else { best.micro_batch };
                if placed.iter().all(|p| p.setting != setting) {
                    let job = self.job(&setting);
                    placed.extend(self.place(&setting, job));
                }
            }
        }
    }

    /// The policy nearest to a placement, with the ring that serves it best.
    fn realise(&self, placed: &Placed) -> Option<Priced> {
        let counted = &self.jobs[placed.job].1;
        let (inputs, costs) = (&self.inputs, &self.costs);
        let with_ring = |ring_parts: usize| {
            let setting = Setting { ring_parts, ..placed.setting };
            let (job, wanted) = (counted.demands(), &placed.placement);
            let policy = round::realise(inputs, costs, &setting, job, wanted)?;
            Some(self.price(&setting, policy, &counted.passes))
        };
        let rings = RINGS.into_iter().filter_map(with_ring);
        rings.min_by(|a, b| a.seconds().total_cmp(&b.seconds()))
    }

    /// Seconds of a policy: the sums of its terms, and where the event clock sees it wait.
    pub(crate) fn price(&self, setting: &Setting, policy: Policy, passes: &[Pass]) -> Priced {
        let placement = self.placement_of(&policy);
        let stream = Stream::new(&self.inputs, &self.costs, &policy);
        let (mut prefill_seconds, mut decode_seconds) = (0.0, 0.0);
        let (mut count, mut sum) = (0.0, Terms::default());
        for pass in passes {
            let terms =
                self.costs.base(setting, pass) + self.costs.placed(setting, pass, &placement);
            let seconds = self.costs.seconds(setting, pass, &terms) + stream.stall(setting, pass);
            let prompt = pass.prompt_rows / pass.rows();
            prefill_seconds += pass.count * seconds * prompt;
            decode_seconds += pass.count * seconds * (1.0 - prompt);
            count += pass.count;
            sum += terms * pass.count;
        }
        drop(stream);
        let setting = *setting;
        Priced { setting, policy, prefill_seconds, decode_seconds, passes: count, terms: sum }
    }

    /// The fractions that a policy realises.
    fn placement_of(&self, policy: &Policy) -> Placement {
        let head = policy.homes.len() - 1;
        let head_bytes = |tier: Tier| -> u64 {
            let segments = self.inputs.model.head.segments.iter().zip(&policy.homes[head]);
            segments.filter(|&(_, &home)| home == tier).map(|(bytes, _)| bytes).sum()
        };
        let kv = |kind: &crate::cost::Kind| {
            Tier::ALL.map(|tier| {
                let there = kind.layers.iter().filter(|&&l| policy.kv_homes[l] == tier).count();
                there as f64 / kind.layers.len() as f64
            })
        };
        let own_memory = !self.inputs.hardware.shares_ram;
        Placement {
            layers: Tier::ALL.map(|tier| {
                (policy.weights.on(tier) - head_bytes(tier)) as f64 / self.costs.layer_bytes
            }),
            head: Tier::ALL.map(|tier| head_bytes(tier) as f64 / self.costs.head_bytes),
            kv: self.costs.kinds.iter().map(kv).collect(),
            activations: f64::from(u8::from(own_memory && policy.activations == Tier::Ram)),
        }
    }
}

fn near_only(shares_ram: bool) -> [f64; 3] {
    if shares_ram { [0.0, 1.0, 0.0] } else { [1.0, 0.0, 0.0] }
}

/// Batches to try: no more than there are requests, or the pinned one.
pub(crate) fn batches(inputs: &Inputs<'_>) -> Vec<usize> {
    let requests = inputs.workload.count();
    if let Some(batch) = inputs.pins.batch {
        return vec![batch.min(requests)];
    }
    let mut batches: Vec<usize> = BATCHES.into_iter().filter(|&b| b < requests).collect();
    if requests <= BATCHES[BATCHES.len() - 1] {
        batches.push(requests);
    }
    batches
}

/// Prefill chunks to try: none twice as large as all prompts together.
pub(crate) fn chunks(inputs: &Inputs<'_>) -> Vec<usize> {
    if let Some(chunk) = inputs.pins.prefill_chunk {
        return vec![chunk];
    }
    let (prompts, _) = inputs.workload.tokens();
    let useful = |&(i, _): &(usize, usize)| i == 0 || CHUNKS[i - 1] < prompts;
    CHUNKS.into_iter().enumerate().filter(useful).map(|(_, chunk)| chunk).collect()
}

/// Micro-batches to try for passes of up to `rows` rows: the last is a whole pass.
fn micro_batches(inputs: &Inputs<'_>, rows: usize) -> Vec<usize> {
    if let Some(micro_batch) = inputs.pins.micro_batch {
        return vec![micro_batch];
    }
    let smaller = MICRO_BATCHES.into_iter().filter(|&m| m < rows);
    smaller.chain([rows]).collect()
}

/// Ways of keys and values that the machine and the pins allow.
pub(crate) fn kv_modes(inputs: &Inputs<'_>) -> Vec<KvMode> {
    let host = inputs.pins.host_attention;
    let mut modes = vec![KvMode::Resident];
    if !inputs.hardware.shares_ram && host != Some(false) {
        modes.push(KvMode::Host);
    }
    if host != Some(true) || inputs.hardware.shares_ram {
        modes.push(KvMode::Staged);
    }
    modes
}
