//! `--draft` and `--speculate`: what grows draft trees, what is known of them, and where a draft lives.

use super::args::DraftArgs;
use super::engine::Model;
use super::exit::CliError;
use super::planning::Planned;
use super::prepare::Setup;
use super::progress::Display;
use super::{cache, log, profiles};
use crate::backend::cpu::CpuDevice;
use crate::backend::{Device, DeviceKind};
use crate::exec::{Executor, ExecutorConfig, ExecutorFootprint, Resources, model_shape};
use crate::generate::{
    DraftLearned, DraftLookup, DraftModel, Drafter, Speculation, SpeculationConfig,
    SpeculationStats, TREE_NODES_MAX, TreeShape,
};
use crate::kernel::{KvFormat, PAGE_LEN};
use forebay_planner::{
    DRAFT_ROWS, Demand, Draft, Footprint, HEAD_ROWS, HardwareProfile, Inputs, Pins, Requests,
    Split, Tier, Workload, resident_passes,
};
use serde_json::{Value, json};
use std::cell::{OnceCell, RefCell};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// What `--draft` says for drafts without a model.
const LOOKUP: &str = "lookup";

/// Nodes of draft trees that are tried where none are asked for.
const BUDGETS: [usize; 9] = [4, 8, 16, 32, 64, 128, 256, 512, 1024];

/// Positions that a draft's rows see, for its predicted time.
const POSITIONS: usize = 512;

/// `--speculate`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Speculate {
    /// What is predicted to be fastest, with room for larger trees where that costs little.
    #[default]
    Auto,
    /// So many nodes in a pass.
    Budget(usize),
}

impl FromStr for Speculate {
    type Err = String;

    fn from_str(text: &str) -> Result<Speculate, String> {
        match text {
            "auto" => Ok(Speculate::Auto),
            "off" => Ok(Speculate::Budget(0)),
            number => match number.parse() {
                Ok(budget) if budget <= 1 << 16 => Ok(Speculate::Budget(budget)),
                _ => Err("expected auto, off, or a number of nodes up to 65536".to_string()),
            },
        }
    }
}

/// What grows trees.
enum Source {
    Model(Box<Model>),
    Lookup,
}

/// A draft for a model.
pub(super) struct Drafting {
    source: Source,
    speculate: Speculate,
    home: Option<Tier>,
    shape: TreeShape,
    /// Where what is learned is kept between jobs.
    path: Option<PathBuf>,
    learned: RefCell<DraftLearned>,
    /// Places where it could live, once they were looked at.
    places: OnceCell<Vec<Draft>>,
    /// Rates of the processor, where the device is another.
    host: OnceCell<HardwareProfile>,
}

impl Drafting {
    /// What the arguments name, if they want trees at all. Its vocabulary is the model's.
    pub(super) fn open(args: &DraftArgs, model: &Model) -> anyhow::Result<Option<Drafting>> {
        let speculate = args.speculate;
        let source = match (args.draft.as_deref(), speculate) {
            (_, Speculate::Budget(0)) | (None, Speculate::Auto) => return Ok(None),
            (None | Some(LOOKUP), _) => Source::Lookup,
            (Some(reference), _) => {
                let draft = Model::open(reference)?;
                same_vocabulary(model, &draft)?;
                Source::Model(Box::new(draft))
            }
        };
        let home = match args.draft_home.as_str() {
            "gpu" => Some(Tier::Device),
            "ram" => Some(Tier::Ram),
            _ => None,
        };
        let shape = match args.tree_shape.as_str() {
            "static" => TreeShape::Static,
            "chain" => TreeShape::Chain,
            _ => TreeShape::Dynamic,
        };
        let (path, learned) = (None, RefCell::default());
        let (places, host) = (OnceCell::new(), OnceCell::new());
        Ok(Some(Drafting { source, speculate, home, shape, path, learned, places, host }))
    }

    /// Whether a model drafts, and not lookup.
    pub(super) fn is_model(&self) -> bool {
        matches!(self.source, Source::Model(_))
    }

    /// Its name for people.
    pub(super) fn name(&self) -> &str {
        match &self.source {
            Source::Model(model) => &model.name,
            Source::Lookup => LOOKUP,
        }
    }

    /// Bytes of the draft and of the model, if the draft is no smaller: seldom what is meant.
    pub(super) fn larger_than(&self, model: &Model) -> Option<[u64; 2]> {
        let Source::Model(draft) = &self.source else { return None };
        let bytes = [draft.files.total_bytes(), model.files.total_bytes()];
        (bytes[0] >= bytes[1]).then_some(bytes)
    }

    /// Takes up what earlier jobs of these models and this kind of sampling have learned.
    pub(super) fn remember(&mut self, model: &Model, noisy: bool) {
        let own = match &self.source {
            Source::Model(draft) => draft.files.fingerprint(),
            Source::Lookup => LOOKUP.to_string(),
        };
        let key = (env!("CARGO_PKG_VERSION"), model.files.fingerprint(), own, noisy);
        self.path = cache::file("draft-trees", format!("{key:?}").as_bytes());
        let known = self.path.as_ref().and_then(|path| std::fs::read(path).ok());
        let known = known.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        self.learned = RefCell::new(known.unwrap_or_default());
    }

    /// Notes what a job has learned, for its next plan.
    pub(super) fn learn(&self, learned: DraftLearned) {
        *self.learned.borrow_mut() = learned;
    }

    /// Keeps what was learned for the next job. A folder that cannot be written costs only that.
    pub(super) fn keep(&self) {
        let Some(path) = &self.path else { return };
        let written = serde_json::to_vec(&*self.learned.borrow()).map_err(Into::into);
        let written = written.and_then(|bytes| {
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            std::fs::write(path, bytes)
        });
        if let Err(error) = written {
            tracing::debug!("{}: {error}", path.display());
        }
    }

    /// What a plan may choose from.
    pub(super) fn known(&self) -> forebay_planner::Speculation {
        let learned = self.learned.borrow();
        let budgets = match self.speculate {
            Speculate::Auto => BUDGETS.to_vec(),
            Speculate::Budget(budget) => vec![budget],
        };
        let nodes: Vec<usize> = (0..=12).map(|power| (1 << power) - 1).collect();
        // Published gains are a lower bound for trees that follow the draft's certainty.
        let gain =
            |&nodes: &usize| (nodes, learned.gain.tokens(nodes).clamp(1.0, 1.0 + nodes as f64));
        let rounds = |&nodes: &usize| (nodes, learned.rounds_of(nodes));
        forebay_planner::Speculation {
            budgets,
            gain: nodes.iter().map(gain).collect(),
            rounds: nodes[1..].iter().map(rounds).collect(),
            draft_rows: learned.rows_per_node(),
            outputs: learned.outputs_per_token(),
            nodes_max: TREE_NODES_MAX,
            drafts: self.places.get().cloned().unwrap_or_default(),
            lookup_bytes: DraftLookup::POSITION_BYTES,
        }
    }

    /// Puts the arguments among what is decided.
    pub(super) fn pin(&self, pins: &mut Pins) {
        if let Speculate::Budget(budget) = self.speculate {
            pins.tree_budget = Some(budget);
        }
        pins.draft = self.home.filter(|_| self.is_model());
    }

    /// Looks at the places where the draft could live, once.
    pub(super) fn look(
        &self,
        setup: &Setup<'_>,
        device: &dyn Device,
        profile: &HardwareProfile,
    ) -> anyhow::Result<()> {
        let Source::Model(draft) = &self.source else { return Ok(()) };
        if self.places.get().is_some() {
            return Ok(());
        }
        if profile.shares_ram && self.home == Some(Tier::Device) {
            return Err(CliError::Usage(format!(
                "--draft-home gpu: {} computes in RAM and has no memory of its own; say ram, or leave it \
                 out",
                device.info().name
            ))
            .into());
        }
        let mut places = Vec::new();
        let near = if profile.shares_ram { Tier::Ram } else { Tier::Device };
        if self.home.is_none_or(|home| home == near) {
            places.push(place(draft, setup, near, (device, profile))?);
        }
        if !profile.shares_ram && self.home.is_none_or(|home| home == Tier::Ram) {
            let mut host = CpuDevice::new(setup.engine.threads)?;
            let folder = setup.memory.disk_dir.as_deref();
            let file = Some(draft.files.path());
            let subject = profiles::Subject::new(&mut host, setup.engine.threads, folder, file)?;
            let rates = profiles::profile_for(subject, setup.kv_format, setup.quiet)?;
            places.push(place(draft, setup, Tier::Ram, (&host, &rates))?);
            let _ = self.host.set(rates);
        }
        let _ = self.places.set(places);
        Ok(())
    }

    /// A drafter at work, if the plan wants one.
    pub(super) fn start(
        &self,
        setup: &Setup<'_>,
        planned: &Planned,
        profile: &HardwareProfile,
        display: &mut Display,
    ) -> anyhow::Result<Option<Speculation>> {
        let policy = &planned.plan.policy;
        if policy.tree_budget == 0 {
            return Ok(None);
        }
        let drafter: Box<dyn Drafter> = match &self.source {
            Source::Lookup => Box::new(DraftLookup::new()),
            Source::Model(draft) => {
                let on_host = policy.draft == Some(Tier::Ram) && !planned.shares_ram;
                let (mut device, rates): (Box<dyn Device>, _) = match on_host {
                    true => (Box::new(CpuDevice::new(setup.engine.threads)?), self.host.get()),
                    false => (setup.open_device()?, Some(profile)),
                };
                device.limit(planned.draft_limit());
                let rows = DRAFT_ROWS + policy.batch;
                let pages = Draft::pages(policy.pages, policy.tree_budget, PAGE_LEN);
                let config = ExecutorConfig {
                    kv_format: setup.kv_format,
                    positions: setup.context_len,
                    ..ExecutorConfig::resident(rows, pages)
                };
                let resources = Resources { profile: rates.cloned(), ..Resources::default() };
                let mut progress = |done: usize, parts: usize| {
                    display.note(&format!("loading the draft {}: {done}/{parts}", draft.name));
                };
                let files = Arc::clone(&draft.files);
                let executor = Executor::with(device, files, config, resources, &mut progress)?;
                let own = setup.model.tokenizer.vocab_len();
                let vocab = own.min(draft.tokenizer.vocab_len());
                Box::new(DraftModel::new(executor, vocab, true, &self.learned.borrow()))
            }
        };
        let curve = (self.speculate == Speculate::Auto).then(|| planned.plan.curve.clone());
        let config = SpeculationConfig { budget: policy.tree_budget, curve, shape: self.shape };
        Ok(Some(Speculation::new(drafter, config, self.learned.borrow().clone())))
    }

    /// Says why a plan has no trees.
    pub(super) fn explain_off(&self, planned: &Planned) {
        if planned.plan.policy.tree_budget > 0 || self.speculate != Speculate::Auto {
            return;
        }
        let with = planned.plan.by_budget.iter().filter(|(budget, _)| *budget > 0);
        let best = with.min_by(|a, b| a.1.total_cmp(&b.1));
        log::say(&match best {
            Some((budget, seconds)) => format!(
                "forebay: no draft trees: predicted {:.1} s without, {seconds:.1} s with {budget} \
                 nodes in a pass",
                planned.plan.seconds()
            ),
            None => "forebay: no draft trees: no plan with them fits".to_string(),
        });
    }
}

/// Refuses a draft whose tokens are not the model's.
fn same_vocabulary(model: &Model, draft: &Model) -> Result<(), CliError> {
    let (own, other) = (&model.tokenizer, &draft.tokenizer);
    let common = own.vocab_len().min(other.vocab_len()) as u32;
    let differs = (0..common).find(|&id| own.piece(id) != other.piece(id));
    let Some(id) = differs else { return Ok(()) };
    Err(CliError::Usage(format!(
        "--draft {}: its vocabulary is not that of {}: token {id} of {} is {:?} there, and of {} it is {:?} \
         here; a draft must have the model's own tokens",
        draft.name,
        model.name,
        other.vocab_len(),
        other.token_text(id),
        own.vocab_len(),
        own.token_text(id)
    )))
}

/// Pages whose tables tell what one takes in them.
const SOME_PAGES: usize = 1024;

/// What the draft takes in a place, and how long its passes are.
fn place(
    draft: &Model,
    setup: &Setup<'_>,
    home: Tier,
    (device, profile): (&dyn Device, &HardwareProfile),
) -> anyhow::Result<Draft> {
    let files = &draft.files;
    let (format, threads) = (setup.kv_format, setup.engine.threads);
    let shape = model_shape(files, false)?;
    // What a device of its own holds before anything is loaded.
    let own = match device.info().kind {
        DeviceKind::Cpu => CpuDevice::own_bytes(threads, &[]),
        _ => device.memory().bytes,
    };
    let kv = (format, setup.context_len);
    let footprint = ExecutorFootprint::new(files, device, Split::default(), kv, None)?;
    let working = |rows: usize, pages: usize| {
        let (batch, micro_rows, outputs) = (rows, rows, rows.min(HEAD_ROWS));
        let demand = Demand { batch, rows, micro_rows, outputs, pages, ..Demand::default() };
        let Split { device, ram, .. } = footprint.workspace(&demand);
        [device + footprint.activations(&demand), ram]
    };
    let least = working(DRAFT_ROWS, 0);
    // What one of `count` more rows or pages adds.
    let one = |more: [u64; 2], count: usize| {
        [0, 1].map(|i| more[i].saturating_sub(least[i]).div_ceil(count as u64))
    };
    let row = one(working(2 * DRAFT_ROWS, 0), DRAFT_ROWS);
    let table = one(working(DRAFT_ROWS, SOME_PAGES), SOME_PAGES);
    let rest = [0, 1].map(|i| least[i].saturating_sub(DRAFT_ROWS as u64 * row[i]));
    let weights = shape.weight_bytes();
    let on = |bytes: u64| if home == Tier::Device { (bytes, 0) } else { (0, bytes) };
    let split = |own: u64, ram: u64| {
        let (device, host) = on(own);
        Split { device, ram: host + ram, disk: 0 }
    };
    let layers = 0..files.spec().layers.len();
    let page: u64 = layers.map(|layer| footprint.page_bytes(layer, format.name())).sum();
    Ok(Draft {
        home,
        pass_seconds: pass_seconds(&shape, &footprint, profile, format),
        bytes: split(weights + shape.vector_bytes + own + rest[0], rest[1]),
        page_bytes: split(page + table[0], table[1]),
        row_bytes: split(row[0], row[1]),
    })
}

fn pass_seconds(
    shape: &forebay_planner::ModelShape,
    footprint: &ExecutorFootprint<'_>,
    profile: &HardwareProfile,
    format: KvFormat,
) -> Vec<(usize, f64)> {
    let requests = vec![Requests { prompt: 1, output: 1, count: 1 }];
    let workload = Workload { requests, ..Workload::default() };
    let inputs = Inputs {
        model: shape,
        footprint,
        hardware: profile,
        workload: &workload,
        budgets: Split::default(),
        kv_formats: &[format.name().to_string()],
        pins: &Pins::default(),
    };
    let rows: Vec<usize> = (0..=8).map(|power| 1 << power).collect();
    resident_passes(&inputs, POSITIONS, &rows)
}

/// What a run says of its trees, for programs.
pub(super) fn summary(stats: &SpeculationStats, name: &str) -> Value {
    let trees = stats.trees.max(1) as f64;
    json!({
        "draft": name,
        "passes": stats.passes,
        "trees": stats.trees,
        "nodes_per_tree": stats.nodes as f64 / trees,
        "height": stats.heights as f64 / trees,
        "tokens_per_pass": stats.tokens_per_tree(),
        "tokens_per_pass_expected": 1.0 + stats.expected / trees,
        "accepted_by_depth": stats.by_depth.iter().map(|&n| n as f64 / trees).collect::<Vec<_>>(),
        "draft_seconds": stats.draft.as_secs_f64(),
        "target_seconds": stats.target.as_secs_f64(),
        "nodes_refused": stats.refused,
        "failure": stats.failure,
    })
}

/// Depths whose acceptance is said.
const DEPTHS_SAID: usize = 12;

/// The same for people, in two lines.
pub(super) fn text(stats: &SpeculationStats, name: &str) -> String {
    let trees = stats.trees.max(1) as f64;
    let percent = |&accepted: &u64| format!("{:.0}", 100.0 * accepted as f64 / trees);
    let by_depth: Vec<String> = stats.by_depth.iter().take(DEPTHS_SAID).map(percent).collect();
    let mut text = format!(
        "  draft trees of {name}: {:.2} tokens in a pass for each sequence (the draft expected {:.2}), {:.1} \
         nodes, height {:.1}; draft {:.1} s, passes with trees {:.1} s\n  accepted at depth 1, 2, …: {} %",
        stats.tokens_per_tree(),
        1.0 + stats.expected / trees,
        stats.nodes as f64 / trees,
        stats.heights as f64 / trees,
        stats.draft.as_secs_f64(),
        stats.target.as_secs_f64(),
        by_depth.join(" ")
    );
    if let Some(failure) = &stats.failure {
        text += &format!("\n  draft trees ended before the job did: {failure}");
    }
    text
}
