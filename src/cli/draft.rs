//! `--draft` and `--speculate`: what grows draft trees, what is known of them, and where a draft lives.

use super::engine::Model;
use super::exit::{CliError, told};
use super::flags::DraftArgs;
use super::planning::Planned;
use super::prepare::Setup;
use super::progress::Display;
use super::{cache, draft_place, log, profiles};
use crate::backend::Device;
use crate::backend::cpu::CpuDevice;
use crate::exec::{Executor, ExecutorConfig, Resources};
use crate::generate::{
    DraftLearned, DraftLookup, DraftModel, Drafter, Speculation, SpeculationConfig, TREE_NODES_MAX,
    TreeShape,
};
use crate::kernel::PAGE_LEN;
use anyhow::Context as _;
use forebay_planner::{DRAFT_ROWS, Draft, HardwareProfile, Pins, Tier};
use std::cell::{Cell, OnceCell, RefCell};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// What `--draft` says for drafts without a model, and for the model's own layers.
const LOOKUP: &str = "lookup";
const ITSELF: &str = "self";

/// Nodes of draft trees that are tried where none are asked for.
const BUDGETS: [usize; 9] = [4, 8, 16, 32, 64, 128, 256, 512, 1024];

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
    /// The model's own layers that are where it computes.
    Itself,
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
    /// Whether there are answers that a fault of the draft must not cost.
    in_job: Cell<bool>,
    /// Why there are no more trees, since the draft failed in mid-job.
    failure: RefCell<Option<String>>,
}

impl Drafting {
    /// What the arguments name, if they want trees at all. Its vocabulary is the model's.
    pub(super) fn open(args: &DraftArgs, model: &Model) -> anyhow::Result<Option<Drafting>> {
        let speculate = args.speculate;
        let source = match (args.draft.as_deref(), speculate) {
            (_, Speculate::Budget(0)) | (None, Speculate::Auto) => return Ok(None),
            (None | Some(LOOKUP), _) => Source::Lookup,
            (Some(ITSELF), _) if args.draft_home != "auto" => {
                let why = "the model drafts for itself where it is";
                let text = format!("--draft-home {}: {why}; leave it out", args.draft_home);
                return Err(CliError::Usage(text).into());
            }
            (Some(ITSELF), _) => Source::Itself,
            (Some(reference), _) => {
                let also =
                    || format!("--draft {reference} ({LOOKUP} and {ITSELF} are drafts, too)");
                let draft = Model::open(reference).with_context(also)?;
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
        let (in_job, failure) = (Cell::new(false), RefCell::default());
        Ok(Some(Drafting {
            source,
            speculate,
            home,
            shape,
            path,
            learned,
            places,
            host,
            in_job,
            failure,
        }))
    }

    /// Whether a model drafts, and not lookup.
    pub(super) fn is_model(&self) -> bool {
        matches!(self.source, Source::Model(_) | Source::Itself)
    }

    /// Its name for people.
    pub(super) fn name(&self) -> &str {
        match &self.source {
            Source::Model(model) => &model.name,
            Source::Itself => ITSELF,
            Source::Lookup => LOOKUP,
        }
    }

    /// Bytes of the draft and of the model, if the draft is no smaller: seldom what is meant.
    pub(super) fn larger_than(&self, model: &Model) -> Option<[u64; 2]> {
        let Source::Model(draft) = &self.source else { return None };
        let bytes = [draft.files.total_bytes(), model.files.total_bytes()];
        (bytes[0] >= bytes[1]).then_some(bytes)
    }

    /// Says that a job is under way: what fails from now on costs the trees alone.
    pub(super) fn job_begins(&self) {
        self.in_job.set(true);
    }

    /// No trees from now on.
    pub(super) fn give_up(&self, why: String) {
        self.failure.borrow_mut().get_or_insert(why);
    }

    /// Why there are no more trees, if it failed.
    pub(super) fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    /// Takes up what earlier jobs of these models, with trees of this shape, have learned.
    pub(super) fn remember(&mut self, model: &Model) {
        let own = match &self.source {
            Source::Model(draft) => draft.files.fingerprint(),
            Source::Itself => ITSELF.to_string(),
            Source::Lookup => LOOKUP.to_string(),
        };
        let key = (env!("CARGO_PKG_VERSION"), model.files.fingerprint(), own, self.shape);
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

    /// What a plan may choose from, for a job of which the part `greedy` is sampled without noise.
    pub(super) fn known(&self, greedy: f64) -> forebay_planner::Speculation {
        let learned = self.learned.borrow();
        let budgets = match self.speculate {
            Speculate::Auto => BUDGETS.to_vec(),
            Speculate::Budget(budget) => vec![budget],
        };
        let nodes: Vec<usize> = (0..=12).map(|power| (1 << power) - 1).collect();
        let tokens = learned.tokens(greedy);
        let gain = |&nodes: &usize| (nodes, tokens(nodes).clamp(1.0, 1.0 + nodes as f64));
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
        if self.places.get().is_some() {
            return Ok(());
        }
        let draft = match &self.source {
            Source::Model(draft) => draft,
            Source::Itself => {
                let _ = self.places.set(vec![draft_place::itself(setup, (device, profile))?]);
                return Ok(());
            }
            Source::Lookup => return Ok(()),
        };
        if profile.shares_ram && self.home == Some(Tier::Device) {
            return Err(CliError::Usage(format!(
                "--draft-home gpu: {} computes in RAM and has no memory of its own; say ram, or leave it \
                 out",
                device.info().name
            ))
            .into());
        }
        let mut places = Vec::new();
        let near = profile.near();
        if self.home.is_none_or(|home| home == near) {
            places.push(draft_place::place(draft, setup, near, (device, profile))?);
        }
        if !profile.shares_ram && self.home.is_none_or(|home| home == Tier::Ram) {
            let mut host = CpuDevice::new(setup.engine.threads)?;
            let folder = setup.memory.disk_dir.as_deref();
            let file = Some(draft.files.path());
            let subject = profiles::Subject::new(&mut host, setup.engine.threads, folder, file)?;
            let rates = profiles::profile_for(subject, setup.kv_format, setup.quiet)?;
            places.push(draft_place::place(draft, setup, Tier::Ram, (&host, &rates))?);
            let _ = self.host.set(rates);
        }
        let _ = self.places.set(places);
        Ok(())
    }

    /// A drafter at work beside what runs the model, if the plan wants one. A job under way goes on without
    /// one that cannot be started.
    pub(super) fn start(
        &self,
        setup: &Setup<'_>,
        made: (&Planned, &Executor),
        profile: &HardwareProfile,
        display: &mut Display,
    ) -> anyhow::Result<Option<Speculation>> {
        if made.0.plan.policy.tree_budget == 0 {
            return Ok(None);
        }
        match self.try_to_start(setup, made, profile, display) {
            Err(error) if self.in_job.get() => {
                let why = told(&error);
                tracing::warn!("the draft: {why}; going on without it");
                self.give_up(why);
                Ok(None)
            }
            started => started.map(Some),
        }
    }

    fn try_to_start(
        &self,
        setup: &Setup<'_>,
        (planned, target): (&Planned, &Executor),
        profile: &HardwareProfile,
        display: &mut Display,
    ) -> anyhow::Result<Speculation> {
        let policy = &planned.plan.policy;
        // What the target has no embedding of cannot be in its trees.
        let own = setup.model.tokenizer.vocab_len().min(target.spec().vocab);
        let drafter: Box<dyn Drafter> = match &self.source {
            Source::Lookup => Box::new(DraftLookup::new()),
            Source::Itself => {
                let plan = target.plan();
                if plan.host_attention || plan.caches.iter().any(|home| *home != Tier::Device) {
                    let why = "its KV cache is not all where the device computes";
                    return Err(CliError::Usage(format!("--draft self: {why}")).into());
                }
                let (kept, all) =
                    (target.plan().resident_layers().len(), target.spec().layers.len());
                if !setup.quiet {
                    log::say(&format!("forebay: {kept} of the model's {all} layers draft"));
                }
                self.learned.borrow_mut().for_part(kept as f64 / all as f64);
                Box::new(DraftModel::of_target(own, true, &self.learned.borrow()))
            }
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
                let vocab = own.min(draft.tokenizer.vocab_len());
                Box::new(DraftModel::new(executor, vocab, true, &self.learned.borrow()))
            }
        };
        let config = SpeculationConfig {
            budget: policy.tree_budget,
            curve: planned.plan.curve.clone(),
            adapts: self.speculate == Speculate::Auto,
            shape: self.shape,
        };
        Ok(Speculation::new(drafter, config, self.learned.borrow().clone()))
    }

    /// Says why a plan has no trees.
    pub(super) fn explain_off(&self, planned: &Planned) {
        if planned.plan.policy.tree_budget > 0 || self.speculate != Speculate::Auto {
            return;
        }
        let with = planned.plan.by_budget.iter().filter(|of| of.tree_budget > 0);
        let best = with.min_by(|a, b| a.seconds.total_cmp(&b.seconds));
        log::say(&match best {
            Some(best) => format!(
                "forebay: no draft trees: predicted {:.1} s without, {:.1} s with {} nodes in a pass",
                planned.plan.seconds(),
                best.seconds,
                best.tree_budget
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
