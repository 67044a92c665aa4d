//! The search: sizes of passes enumerated outside, the linear program inside, the best made real.

use crate::candidates::{
    RING, RINGS, Trees, batches, chunks, micro_batches, neighbours, thinned, too_many_nodes, trees,
    ways,
};
use crate::composer::compose;
use crate::cost::Costs;
use crate::error::PlanError;
use crate::fit;
use crate::inputs::Inputs;
use crate::lp::{self, Decided};
use crate::memory;
use crate::passes::{Composition, Job, Pass, condense};
use crate::plan::Terms;
use crate::policy::Tier;
use crate::price::Priced;
use crate::round::{self, Demands};
use crate::setting::{Head, KvMode, Placement, Setting};

/// Passes of a job that are priced, and those that the linear program sees.
const PRICED_PASSES: usize = 16;
const PROGRAM_PASSES: usize = 3;

/// A candidate that cannot be faster than this times the best is not looked at.
pub(crate) const PRUNE: f64 = 0.995;

/// So many candidates of a group are tried, best bound first, without a faster one among them.
const PATIENCE: usize = 48;

/// Candidates of a tree budget that are tried where its bounds say that another is better.
const TRIED_ANYWAY: usize = 16;

/// Groups that are refined, and rounds of it, each around the best of the one before.
const REFINED: usize = 3;
const ROUNDS: usize = 4;

/// Settings with trees are refined if they take less than this times those without, and the other way
/// round.
pub(crate) const PROMISING: f64 = 1.25;

/// Rounds in which trees are grown, at least: where the target drafts for itself, the nodes of one are a
/// micro-batch at most.
const ROUNDS_LEAST: usize = 8;

/// Passes of one composition, as the search uses them.
pub(crate) struct Counted {
    pub(crate) passes: Vec<Pass>,
    program: Vec<Pass>,
    pages: usize,
}

impl Counted {
    /// Passes that bounds are made of: a few where trees multiply the candidates.
    fn bounding(&self, setting: &Setting) -> &[Pass] {
        if setting.tree_budget > 0 { &self.program } else { &self.passes }
    }

    pub(crate) fn demands(&self) -> Demands<'_> {
        Demands { passes: &self.program, pages: self.pages }
    }
}

/// Jobs by their composition.
pub(crate) type Jobs = Vec<(Composition, Counted)>;

/// A setting and the least seconds that it could take.
struct Candidate {
    setting: Setting,
    job: usize,
    bound: f64,
}

/// Candidates whose bounds are about as tight: those that differ in sizes alone.
pub(crate) struct Group {
    like: Setting,
    best: f64,
    tried_in_vain: usize,
}

impl Group {
    /// A setting without its sizes, but for its trees.
    pub(crate) fn like(setting: &Setting) -> Setting {
        let rings = Setting { ring_parts: 0, head: Head::Whole, ..*setting };
        Setting { batch: 0, prefill_chunk: 0, micro_batch: 0, ..rings }
    }

    fn of<'a>(groups: &'a mut Vec<Group>, setting: &Setting) -> &'a mut Group {
        let like = Group::like(setting);
        let at = groups.iter().position(|group| group.like == like).unwrap_or(groups.len());
        if at == groups.len() {
            groups.push(Group { like, best: f64::INFINITY, tried_in_vain: 0 });
        }
        &mut groups[at]
    }
}

/// A setting with a placement in fractions.
pub(crate) struct Placed {
    pub(crate) setting: Setting,
    pub(crate) job: usize,
    pub(crate) placement: Placement,
    pub(crate) seconds: f64,
}

/// The same number for times that differ by about a thousandth.
fn alike(seconds: f64) -> i64 {
    (seconds.ln() * 1000.0).round() as i64
}

/// Looks for the fastest policy of some inputs.
pub(crate) struct Search<'a> {
    pub(crate) inputs: Inputs<'a>,
    pub(crate) costs: Costs<'a>,
    /// Passes of every composition met; they depend on model and workload alone.
    pub(crate) jobs: Jobs,
    /// Draft trees that are tried.
    pub(crate) trees: Trees,
}

impl<'a> Search<'a> {
    pub(crate) fn new(inputs: Inputs<'a>) -> Search<'a> {
        let (costs, trees) = (Costs::new(&inputs), trees(&inputs));
        Search { inputs, costs, jobs: Jobs::new(), trees }
    }

    /// Up to `most` policies, fastest first.
    pub(crate) fn run(&mut self, most: usize) -> Result<Vec<Priced>, PlanError> {
        let mut placed = self.explore(false);
        if placed.is_empty() {
            placed = self.explore(true);
        }
        self.refine(&mut placed);
        // What differs by less than a model can know goes by size: smaller passes first.
        placed.sort_by_key(|p| (alike(p.seconds), p.setting));
        let mut priced = self.realise_best(&placed, most);
        if priced.is_empty() {
            let (setting, policy) = fit::smallest(&self.inputs)?;
            let job = self.job(&setting);
            // Its cache stays where it fits; its weights may use what memory is left.
            let (inputs, costs, demands) = (&self.inputs, &self.costs, self.jobs[job].1.demands());
            let demands = Demands { pages: policy.pages, ..demands };
            let kv_homes = &policy.kv_homes;
            let roomier = round::with_cache(inputs, costs, &setting, demands, kv_homes, 0.0);
            priced.push(self.price(&setting, roomier.unwrap_or(policy)));
        }
        priced.sort_by_key(|p| (alike(p.seconds()), p.setting));
        let mut distinct: Vec<Priced> = Vec::new();
        for priced in priced {
            if distinct.iter().all(|other| other.policy != priced.policy) {
                distinct.push(priced);
            }
        }
        Ok(distinct)
    }

    /// Number of the job's passes in a setting.
    pub(crate) fn job(&mut self, setting: &Setting) -> usize {
        let composition = Composition::of(setting);
        let known = self.jobs.iter().position(|(known, _)| *known == composition);
        known.unwrap_or_else(|| {
            let Inputs { workload, model, .. } = self.inputs;
            let Job { passes, pages } = compose(workload, model, composition, &self.costs.windows);
            let passes = condense(&passes, PRICED_PASSES);
            let program = condense(&passes, PROGRAM_PASSES);
            self.jobs.push((composition, Counted { passes, program, pages }));
            self.jobs.len() - 1
        })
    }

    /// Best placements of all settings that could be best; small ones where memory is `tight`. Those
    /// without trees are looked at as if there were none, so that trees are never a loss.
    fn explore(&mut self, tight: bool) -> Vec<Placed> {
        let (mut placed, mut candidates) = (Vec::new(), Vec::new());
        if self.trees.off {
            self.candidates((0, None), tight, &mut candidates);
            self.try_out(candidates, &mut placed);
        }
        let Trees { budgets, drafts, .. } = self.trees.clone();
        let mut candidates = Vec::new();
        for &budget in &budgets {
            drafts.iter().for_each(|&d| self.candidates((budget, d), tight, &mut candidates));
        }
        self.try_out(candidates, &mut placed);
        placed
    }

    /// Places candidates, best bound first, as long as one can be better than what is placed.
    fn try_out(&self, mut candidates: Vec<Candidate>, placed: &mut Vec<Placed>) {
        candidates.sort_by(|a, b| a.bound.total_cmp(&b.bound).then(a.setting.cmp(&b.setting)));
        let mut best = placed.iter().map(|placed| placed.seconds).fold(f64::INFINITY, f64::min);
        let mut groups: Vec<Group> = Vec::new();
        let known = placed.len();
        for candidate in &candidates {
            if candidate.bound >= best * PRUNE {
                break;
            }
            let group = Group::of(&mut groups, &candidate.setting);
            if group.tried_in_vain >= PATIENCE {
                continue;
            }
            group.tried_in_vain += 1;
            if let Some(found) = self.place(&candidate.setting, candidate.job) {
                if found.seconds < group.best * PRUNE {
                    group.tried_in_vain = 0;
                }
                group.best = group.best.min(found.seconds);
                best = best.min(found.seconds);
                placed.push(found);
            }
        }
        // What a budget would take is told even if it is no good.
        for &budget in &self.trees.budgets {
            let of_budget = candidates.iter().filter(|c| c.setting.tree_budget == budget);
            for Candidate { setting, job, .. } in of_budget.take(TRIED_ANYWAY) {
                if placed[known..].iter().all(|placed| !placed.setting.same_sizes(setting)) {
                    placed.extend(self.place(setting, *job));
                }
            }
        }
    }

    /// All settings with such trees (a budget, and the draft's place) that memory might allow, with
    /// their bounds.
    fn candidates(
        &mut self,
        (tree_budget, draft): (usize, Option<usize>),
        tight: bool,
        out: &mut Vec<Candidate>,
    ) {
        let thin = |sizes: Vec<usize>| if tree_budget > 0 { thinned(sizes) } else { sizes };
        let pins = self.inputs.pins;
        let formats = 0..self.inputs.kv_formats.len();
        let formats: Vec<usize> = formats
            .filter(|&f| {
                pins.kv_format.as_ref().is_none_or(|pin| *pin == self.inputs.kv_formats[f])
            })
            .collect();
        let (near, ways) = (round::near(&self.inputs), ways(&self.inputs));
        for batch in thin(batches(&self.inputs)) {
            if too_many_nodes(&self.inputs, batch, tree_budget) {
                continue;
            }
            let before = out.len();
            for prefill_chunk in thin(chunks(&self.inputs, tight)) {
                let setting = Setting {
                    batch,
                    prefill_chunk,
                    tree_budget,
                    draft,
                    micro_batch: 1,
                    format: 0,
                    kv_mode: KvMode::Resident,
                    kv_floor: near,
                    weight_floor: near,
                    ring_parts: RING,
                    head: if tree_budget > 0 { Head::Stays } else { Head::Whole },
                };
                let job = self.job(&setting);
                for micro_batch in thin(micro_batches(&self.inputs, setting.rows(), tight)) {
                    // A round of growth is one pass then.
                    let round = tree_budget / ROUNDS_LEAST;
                    if self.costs.drafts_itself(draft) && micro_batch < round && !tight {
                        continue;
                    }
                    let setting = Setting { micro_batch, ..setting };
                    let passes = self.jobs[job].1.bounding(&setting).iter();
                    let bases: Vec<Terms> =
                        passes.map(|pass| self.costs.base(&setting, pass)).collect();
                    for (&format, &way) in
                        formats.iter().flat_map(|f| ways.iter().map(move |w| (f, w)))
                    {
                        let (kv_mode, kv_floor, weight_floor) = way;
                        if self.costs.drafts_itself(draft) && kv_mode != KvMode::Resident {
                            continue;
                        }
                        let setting =
                            Setting { format, kv_mode, kv_floor, weight_floor, ..setting };
                        let bound = self.bound(&setting, job, &bases);
                        out.extend(bound.map(|bound| Candidate { setting, job, bound }));
                    }
                }
            }
            // Larger batches need more of everything.
            if out.len() == before {
                break;
            }
        }
    }

    /// Seconds that no placement can beat; `None` if memory cannot hold even one. `bases` are the
    /// terms of the job's passes that do not depend on the placement.
    fn bound(&self, setting: &Setting, job: usize, bases: &[Terms]) -> Option<f64> {
        let (costs, hw) = (&self.costs, self.inputs.hardware);
        let counted = &self.jobs[job].1;
        let away = round::may_be_away(setting);
        let least = Setting { head: Head::Stays, ..*setting };
        let room = round::room(&self.inputs, costs, &least, counted.pages, away);
        let [device, ram, disk] = room.free;
        let cached: f64 = room.kv.iter().sum();
        let weights = costs.layer_bytes + costs.head_bytes;
        let near = round::near(&self.inputs);
        let kv_home = setting.kv_home(near);
        let kv_near = if kv_home == Some(near) { cached } else { 0.0 };
        let not_near = (weights + kv_near - room.free[near as usize]).max(0.0);
        let not_in_memory = (weights + cached - device - ram).max(0.0);
        let no_disk = setting.kv_floor != Tier::Disk && setting.weight_floor != Tier::Disk;
        let reached =
            setting.kv_mode != KvMode::Host && self.inputs.pins.kv.disk.is_none_or(|f| f < 1.0);
        let largest = memory::layer_cache(costs, setting, counted.pages);
        if room.free.iter().any(|&free| free < 0.0)
            || (reached && largest > self.inputs.footprint.buffer_bytes_max())
            || cached > device + ram + disk
            || kv_home.is_some_and(|home| cached > room.free[home as usize])
            || (setting.weight_floor == near && not_near > 0.0)
            || (setting.tree_budget > 0 && costs.head_bytes > room.free[near as usize])
            || (no_disk && not_in_memory > 0.0)
        {
            return None;
        }
        let not_held = (weights + cached - room.free[near as usize]).max(0.0);
        let seconds = counted.bounding(setting).iter().zip(bases).map(|(pass, &base)| {
            let mut terms = base;
            self.attention(setting, pass, &mut terms);
            let share = Costs::head_share(pass);
            // A byte of cache on disk is read in this part of the passes only.
            let read = (pass.pages_read / counted.pages as f64).min(1.0) * share;
            terms.disk_read = not_in_memory * read / hw.disk.read_bytes_per_sec;
            if !hw.shares_ram {
                let brought = if setting.kv_mode == KvMode::Staged { not_held * read } else { 0.0 };
                terms.upload = brought.max(not_near * share) / hw.upload_bytes_per_sec;
            }
            pass.count * costs.seconds(setting, pass, &terms)
        });
        Some(seconds.sum())
    }

    /// Adds the seconds of attention.
    fn attention(&self, setting: &Setting, pass: &Pass, terms: &mut Terms) {
        let sum = |host: bool| -> f64 {
            let kinds = self.costs.kinds.iter();
            kinds.map(|k| k.layers.len() as f64 * self.costs.attend(k, setting, pass, host)).sum()
        };
        match setting.kv_mode {
            KvMode::Host => terms.host = sum(true),
            _ => terms.device += sum(false),
        }
    }

    /// The best placement of a setting. With trees it is the better of two rings, as a large one may fit and
    /// leave too little memory for weights; without, the least where none has room for more.
    pub(crate) fn place(&self, setting: &Setting, job: usize) -> Option<Placed> {
        let counted = &self.jobs[job].1;
        let away = round::may_be_away(setting);
        let pins = self.inputs.pins;
        let decided = Decided { weights: pins.weights, kv_total: pins.kv, ..Decided::default() };
        let with_ring = |(ring_parts, head): (usize, Head)| {
            let setting = Setting { ring_parts, head, ..*setting };
            let room = round::room(&self.inputs, &self.costs, &setting, counted.pages, away);
            let placement = lp::solve(&self.costs, &setting, &counted.program, &room, &decided)?;
            let seconds = self.costs.job_seconds(&setting, &counted.passes, &placement);
            Some(Placed { setting, job, placement, seconds })
        };
        if setting.tree_budget > 0 {
            let both = [RING, RINGS[0]].map(|ring| (ring, Head::Stays));
            let both = both.into_iter().filter_map(with_ring);
            return both.min_by(|a, b| a.seconds.total_cmp(&b.seconds));
        }
        let less = [Head::Whole, Head::Stays, Head::InRuns].map(|head| (RINGS[0], head));
        [(RING, Head::Whole)].into_iter().chain(less).find_map(with_ring)
    }

    /// Sizes between the enumerated ones, around the best of the most promising groups.
    fn refine(&mut self, placed: &mut Vec<Placed>) {
        let mut groups: Vec<Group> = Vec::new();
        for placed in placed.iter() {
            let group = Group::of(&mut groups, &placed.setting);
            group.best = group.best.min(placed.seconds);
        }
        groups.sort_by(|a, b| a.best.total_cmp(&b.best).then(a.like.cmp(&b.like)));
        let Some(best) = groups.first().map(|group| group.best) else { return };
        for trees in [false, true] {
            let alike = groups.iter().filter(|group| (group.like.tree_budget > 0) == trees);
            let promising = alike.filter(|group| group.best < PROMISING * best);
            for group in promising.take(REFINED) {
                let of_group = placed.iter().filter(|p| Group::like(&p.setting) == group.like);
                let start = of_group.min_by(|a, b| a.seconds.total_cmp(&b.seconds));
                let mut start = start.map(|placed| (placed.setting, placed.seconds));
                for _ in 0..ROUNDS {
                    start = start.and_then(|start| self.climb(start, placed));
                }
            }
        }
    }

    /// Places the neighbours of a setting; the best of them, if it is better.
    fn climb(
        &mut self,
        (from, seconds): (Setting, f64),
        placed: &mut Vec<Placed>,
    ) -> Option<(Setting, f64)> {
        let known = placed.len();
        for setting in neighbours(&self.inputs, &from) {
            if placed.iter().all(|p| !p.setting.same_sizes(&setting)) {
                let job = self.job(&setting);
                placed.extend(self.place(&setting, job));
            }
        }
        let better = placed[known..].iter().filter(|p| p.seconds < seconds * PRUNE);
        let best = better.min_by(|a, b| a.seconds.total_cmp(&b.seconds));
        best.map(|best| (best.setting, best.seconds))
    }
}
