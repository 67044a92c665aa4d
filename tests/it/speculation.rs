//! Draft trees change no token: whatever the draft, the budget, the batch, the sampling and the place.

use crate::placement::{WEIGHTS, Way, config as placed};
use crate::support::{Kind, Model, complete, device, executor, fixture, greedy, open, real};
use crate::tree_rows::sequential;
use forebay::exec::{Executor, Resources};
use forebay::generate::{
    DraftError, DraftLookup, DraftModel, Draftable, Drafter, Engine, EngineConfig, FinishReason,
    Followed, GrowthPlan, Request, Speculation, SpeculationConfig, SpeculationStats, Target,
    TreeShape,
};
use forebay::kernel::KvFormat;
use forebay::sample::SamplingParams;
use forebay::speculate::{Node, Tree};
use forebay::tokenizer::Special;
use forebay_planner::Tier;
use std::sync::Arc;

const TEXTS: [&str; 7] = [
    "The capital of France is",
    "def quicksort(items):\n",
    "1, 2, 3, 1, 2, 3, 1, 2, 3, 1,",
    "Roses are red, violets are blue, roses are",
    "Q: What is the boiling point of water?\nA:",
    "a",
    "Once upon a time, in a land far away, there lived a miller who had three sons and a cat.",
];

/// The request that is likely to end before it has all its tokens.
const ENDS: usize = 5;

/// What grows the trees.
#[derive(Clone, Debug)]
enum Draft {
    /// A model, with trees on the noise of sampling or without.
    Model(String, bool),
    Lookup,
    /// A model that knows fewer tokens than the target.
    Narrow(String),
    /// Layers of the target that are at hand.
    Layers,
    /// Trees of nonsense.
    Nonsense,
    /// The same until it fails.
    Failing,
}

/// Grows trees without looking at anything: chains, fans and bushes of any tokens.
struct Nonsense {
    state: u64,
    vocab: u64,
}

impl Nonsense {
    fn next(&mut self, below: u64) -> u64 {
        self.state = self.state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.state >> 33) % below
    }
}

impl Drafter for Nonsense {
    fn grow(
        &mut self,
        _: &mut Target<'_>,
        sequences: &[Draftable<'_>],
        plan: &GrowthPlan<'_>,
    ) -> Result<Vec<Tree>, DraftError> {
        let (limits, most) = (plan.limits, plan.limits.budget / sequences.len());
        let tree = |sequence: &Draftable<'_>| {
            let mut nodes = Tree::new(sequence.tokens[sequence.root()]).nodes().to_vec();
            let chainy = self.next(3);
            for _ in 0..most {
                let parent = match chainy {
                    0 => self.next(nodes.len() as u64) as u32,
                    _ => nodes.len() as u32 - 1,
                };
                let (token, vocab) = (self.next(self.vocab) as u32, self.vocab as u32);
                let depth = nodes[parent as usize].depth + 1;
                let twin = nodes[1..].iter().any(|n| n.parent == parent && n.token == token);
                if depth as usize <= sequence.depth.min(limits.depth) && !twin && token < vocab {
                    let log_p = nodes[parent as usize].log_p - 0.1;
                    nodes.push(Node { token, parent, depth, log_p, expansion: None });
                }
            }
            Tree::from_nodes(nodes)
        };
        Ok(sequences.iter().map(tree).collect())
    }

    fn followed(&mut self, _: &Followed<'_>) {}

    fn forget(&mut self, _: u64) {}
}

/// How a job is run.
#[derive(Clone, Debug)]
struct Run {
    kind: Kind,
    draft: Draft,
    budget: usize,
    shape: TreeShape,
    batch: usize,
    /// Seconds of passes that trees adapt to; of a fixed size if there are none.
    curve: &'static [(usize, f64)],
    /// Where things live; resident if `None`.
    way: Option<Way>,
    positions: usize,
    kv_format: KvFormat,
}

const PLAIN: Run = Run {
    kind: Kind::Cpu,
    draft: Draft::Lookup,
    budget: 0,
    shape: TreeShape::Dynamic,
    batch: 3,
    curve: &[],
    way: None,
    positions: 2048,
    kv_format: KvFormat::F16,
};

fn drafter(run: &Run, rows: usize, vocab: usize) -> Box<dyn Drafter> {
    match &run.draft {
        Draft::Lookup => Box::new(DraftLookup::new()),
        Draft::Layers => Box::new(DraftModel::of_target(vocab, true, &Default::default())),
        Draft::Nonsense => Box::new(Nonsense { state: 7, vocab: vocab as u64 }),
        Draft::Failing => Box::new(Failing(Nonsense { state: 7, vocab: vocab as u64 }, 0)),
        Draft::Model(name, shares_noise) => Box::new(DraftModel::new(
            draft(run, name, rows),
            vocab,
            *shares_noise,
            &Default::default(),
        )),
        Draft::Narrow(name) => {
            let known = vocab / 2;
            Box::new(DraftModel::new(draft(run, name, rows), known, true, &Default::default()))
        }
    }
}

/// A draft on the target's device, with few rows, so that rounds and prompts take several passes.
fn draft(run: &Run, name: &str, rows: usize) -> Executor {
    let model = named(name).expect("the target is there too");
    executor(&model, run.kind, rows.min(11), 1024, KvFormat::F16).unwrap()
}

/// A tiny model of the fixtures, or a real one.
pub(crate) fn named(name: &str) -> Option<Model> {
    match name.contains('-') {
        true => real(name),
        false => Some(open(&fixture(&format!("fixtures/tiny/{name}")))),
    }
}

/// Sampling of a request by its index: greedy, warm, hot with filters, with penalties.
fn sampling(id: usize) -> SamplingParams {
    let plain = SamplingParams { seed: 40 + id as u64, ..SamplingParams::default() };
    match id % 4 {
        0 => plain,
        1 => SamplingParams { temperature: 0.6, ..plain },
        2 => SamplingParams { temperature: 1.0, top_p: 0.9, ..plain },
        _ => SamplingParams { frequency_penalty: 0.7, repetition_penalty: 1.2, ..plain },
    }
}

/// Ids, text and end of an answer.
type Answer = (Vec<u32>, String, FinishReason);

/// The answers to all requests, and what speculation did.
fn answers(model: &Model, run: &Run, shift: usize) -> Option<(Vec<Answer>, SpeculationStats)> {
    let Run { kind, budget, batch, positions, kv_format, .. } = *run;
    let config = EngineConfig { batch, prefill_chunk: 9, context_len: 128, tree_budget: budget };
    let executor = match run.way {
        None => executor(model, kind, config.rows(), positions, kv_format)?,
        Some(way) => {
            let config = placed(model, kind == Kind::Cpu, config.rows(), way);
            let folder = tempfile::tempdir().unwrap();
            let resources = Resources {
                spill_folder: folder.path().into(),
                poison: true,
                trace: true,
                ..Resources::default()
            };
            let files = Arc::clone(&model.files);
            Executor::with(device(kind)?, files, config, resources, &mut |_, _| {}).unwrap()
        }
    };
    let vocab = executor.spec().vocab;
    let mut engine = Engine::new(executor, &model.tokenizer, config);
    if budget > 0 {
        let drafter = drafter(run, config.rows(), vocab);
        let (curve, adapts) = (run.curve.to_vec(), !run.curve.is_empty());
        let config = SpeculationConfig { budget, curve, adapts, shape: run.shape };
        engine.speculate(Speculation::new(drafter, config, Default::default()));
    }
    let request = |(id, text): (usize, &&str)| {
        let prompt = model.tokenizer.encode(text, Special::Parse).unwrap();
        let stop = if id == 3 { vec!["e".to_string()] } else { Vec::new() };
        let mut sampling = sampling(id + shift);
        if id == ENDS {
            // It ends at any moment, in the middle of a tree as well.
            sampling.logit_bias = vec![(model.tokenizer.eos().unwrap(), 3.0)];
            sampling.temperature = 1.0;
        }
        Request { sampling, stop, ..greedy(id as u64, &prompt, 20) }
    };
    let requests = TEXTS.iter().enumerate().map(request).collect();
    let done = complete(&mut engine, requests);
    if positions < 200 && budget == 0 {
        assert!(engine.stats().preemptions > 0, "the small cache was meant to preempt");
    }
    if run.way.is_some_and(|way| way.in_ram > 0) && budget > 0 {
        let ahead = |name: &str| name.ends_with(" uploads ahead");
        let found = engine.executor().trace().iter().any(|event| ahead(&event.name));
        assert!(found, "nothing arrived while the draft computed: {run:?}");
    }
    let stats = engine.speculation().map(|s| s.stats().clone()).unwrap_or_default();
    Some((done.into_iter().map(|done| (done.tokens, done.text, done.finish)).collect(), stats))
}

/// Runs all ways; returns what speculation did in each.
fn check(target: &str, runs: &[Run]) -> Vec<SpeculationStats> {
    let Some(model) = named(target) else { return Vec::new() };
    let mut all = Vec::new();
    for (at, run) in runs.iter().enumerate() {
        let plain = Run { budget: 0, batch: 3, way: None, positions: 2048, ..run.clone() };
        let Some((expected, _)) = answers(&model, &plain, at) else { return all };
        assert!(expected.iter().any(|(tokens, ..)| tokens.len() == 20));
        let (found, stats) = answers(&model, run, at).unwrap();
        assert_eq!(found, expected, "{target}: {run:?}");
        assert_eq!(stats.failure, None);
        all.push(stats);
    }
    all
}

fn itself(name: &str) -> Draft {
    Draft::Model(name.into(), true)
}

#[test]
fn trees_change_no_token_of_tiny_models() {
    for target in ["llama", "qwen2", "qwen3", "gemma3"] {
        let other = if target == "llama" { "qwen3" } else { "llama" };
        let drafts = [
            itself(target),
            Draft::Model(target.into(), false),
            itself(other),
            Draft::Lookup,
            Draft::Nonsense,
            Draft::Narrow(target.into()),
        ];
        let run = |(kind, at, budget, batch): (Kind, usize, usize, usize)| Run {
            kind,
            draft: Draft::clone(&drafts[at]),
            budget,
            batch,
            ..PLAIN
        };
        let sizes = [(1, 1), (16, 8), (128, 1), (128, 8)];
        let cpu = (0..6).flat_map(|at| sizes.map(|(budget, batch)| (Kind::Cpu, at, budget, batch)));
        let reference = (0..5).map(|at| (Kind::Reference, at, 16, 8));
        // The software adapter takes its time.
        let gpu = [0, 4].map(|at| (Kind::Gpu, at, 16, 8));
        check(target, &cpu.chain(reference).chain(gpu).map(run).collect::<Vec<_>>());
    }
}

/// Sizes that follow the clock: trees are cut, left out for some passes, taken up again.
#[test]
fn trees_that_adapt_change_no_token() {
    let curves: [&[(usize, f64)]; 3] = [
        &[(1, 1e-3), (8, 1e-3), (64, 4e-3)],
        // Two rows take twice as long as one: trees soon pause.
        &[(1, 1e-3), (64, 64e-3)],
        &[(1, 1.0), (64, 1.0)],
    ];
    for target in ["llama", "gemma3"] {
        let drafts = [itself(target), Draft::Lookup, Draft::Layers, Draft::Nonsense];
        let run = |(curve, draft)| Run { curve, draft, budget: 40, batch: 4, ..PLAIN };
        let all = curves.into_iter().flat_map(|curve| drafts.clone().map(|draft| (curve, draft)));
        let stats = check(target, &all.map(run).collect::<Vec<_>>());
        assert!(stats.iter().all(|stats| stats.passes > 0), "{stats:?}");
    }
}

/// More nodes than tokens are left, or than the cache has room for.
#[test]
fn large_trees_change_no_token() {
    let run = |draft, budget, batch| Run { draft, budget, batch, ..PLAIN };
    let runs = [
        run(itself("llama"), 256, 1),
        run(itself("llama"), 2048, 3),
        run(Draft::Lookup, 2048, 1),
        run(Draft::Nonsense, 2048, 8),
    ];
    let stats = check("llama", &runs);
    assert!(stats[1].nodes > 100 * stats[1].trees, "{:?}", stats[1]);
}

/// A sequence that ends within a tree ends there.
#[test]
fn an_end_within_a_tree_is_kept() {
    let model = named("llama").unwrap();
    let run = |shift| {
        let run = Run { draft: itself("llama"), budget: 12, batch: 1, ..PLAIN };
        (answers(&model, &PLAIN, shift).unwrap().0, answers(&model, &run, shift).unwrap())
    };
    let mut ended = 0;
    for shift in 0..6 {
        let (plain, (trees, stats)) = run(shift);
        assert_eq!(plain, trees, "{shift}");
        let (tokens, _, finish) = &plain[ENDS];
        ended += usize::from(*finish == FinishReason::Stop && tokens.len() > 1);
        assert!(stats.tokens_per_pass() > 1.5, "{stats:?}");
    }
    assert!(ended > 1, "{ended} of 6 ended before they had all tokens");
}

#[test]
fn shaped_trees_change_no_token() {
    for shape in [TreeShape::Static, TreeShape::Chain] {
        let run = |draft, batch| Run { draft, budget: 24, batch, shape, ..PLAIN };
        let itself = Draft::Model("qwen2".into(), true);
        let runs = [run(itself.clone(), 1), run(itself, 8), run(Draft::Lookup, 3)];
        let stats = check("qwen2", &runs);
        assert!(stats[0].tokens_per_pass() > 2.0, "{shape:?}: {:?}", stats[0]);
    }
}

#[test]
fn trees_change_no_token_where_things_live_elsewhere() {
    let ways = [
        Way { resident: 100, micro_rows: 4, ..WEIGHTS },
        Way { resident: 100, caches: &[Tier::Disk, Tier::Ram], window_pages: 16, ..WEIGHTS },
        Way {
            resident: 100,
            caches: &[Tier::Ram, Tier::Disk],
            window_pages: 12,
            micro_rows: 16,
            kv_format: KvFormat::Q4,
            activations: Tier::Ram,
            ..WEIGHTS
        },
    ];
    // Weights arrive while a draft computes.
    let ahead = [9 << 20, 1 << 10].map(|spare| Way { resident: 40, in_ram: 100, spare, ..WEIGHTS });
    let mixed = Way { in_ram: 70, ..ahead[0] };
    for target in ["qwen2", "gemma3"] {
        let run = |kind, way: Way, draft| {
            let kv_format = way.kv_format;
            Run { kind, draft, budget: 24, way: Some(way), kv_format, ..PLAIN }
        };
        let drafts = || [itself(target), Draft::Nonsense];
        let cpu = ways.iter().flat_map(|&way| drafts().map(|draft| run(Kind::Cpu, way, draft)));
        let gpu = drafts().into_iter().zip(&ways[1..]);
        let gpu = gpu.map(|(draft, &way)| run(Kind::Gpu, way, draft));
        let ahead = ahead.into_iter().chain([mixed]).map(|way| run(Kind::Gpu, way, itself(target)));
        check(target, &cpu.chain(gpu).chain(ahead).collect::<Vec<_>>());
    }
    let host = Way { resident: 100, host: true, micro_rows: 5, ..WEIGHTS };
    let run = Run { kind: Kind::Gpu, draft: itself("qwen2"), budget: 24, ..PLAIN };
    let model = named("qwen2").unwrap();
    let plain = Run { way: Some(host), budget: 0, ..run.clone() };
    let Some(expected) = answers(&model, &plain, 0) else { return };
    assert_eq!(answers(&model, &Run { way: Some(host), ..run }, 0).unwrap().0, expected.0);
}

/// The target's own layers draft, those that are at hand, over the target's cache.
#[test]
fn resident_layers_change_no_token() {
    let away =
        |away, micro_rows| Some(Way { resident: 100, away, micro_rows, spare: 1 << 20, ..WEIGHTS });
    for target in ["llama", "qwen2", "gemma3"] {
        let run = |way, batch| Run { draft: Draft::Layers, budget: 24, way, batch, ..PLAIN };
        // All layers are as good as the model itself, with no more said of a prompt than it knows.
        let stats = check(target, &[run(None, 1), run(None, 8)]);
        assert!(stats[0].tokens_per_pass() > 3.5, "{target}: {:?}", stats[0]);
        let ways = [away(&[1], 64), away(&[0], 5), away(&[0, 1], 7)];
        let runs = ways.into_iter().flat_map(|way| [run(way, 1), run(way, 8)]);
        let more = [Run { kind: Kind::Gpu, ..run(away(&[1], 16), 8) }, run(None, 3)];
        let compressed = Way { kv_format: KvFormat::Q4, ..away(&[1], 16).unwrap() };
        let more =
            more.into_iter().chain([Run { kv_format: KvFormat::Q4, ..run(Some(compressed), 8) }]);
        check(target, &runs.chain(more).collect::<Vec<_>>());
    }
    let run = Run { draft: Draft::Layers, budget: 64, batch: 8, positions: 176, ..PLAIN };
    check("llama", &[run]);
}

#[test]
fn trees_give_way_where_the_cache_is_small() {
    for draft in [itself("llama"), Draft::Nonsense] {
        let run = Run { draft, budget: 64, batch: 8, positions: 176, ..PLAIN };
        check("llama", std::slice::from_ref(&run));
        answers(&named("llama").unwrap(), &Run { budget: 0, ..run }, 0);
    }
}

/// Fails at its third growth.
struct Failing(Nonsense, usize);

impl Drafter for Failing {
    fn grow(
        &mut self,
        target: &mut Target<'_>,
        sequences: &[Draftable<'_>],
        plan: &GrowthPlan<'_>,
    ) -> Result<Vec<Tree>, DraftError> {
        self.1 += 1;
        match self.1 {
            3.. => Err(DraftError(forebay::exec::ExecError::ReaderGone)),
            _ => self.0.grow(target, sequences, plan),
        }
    }

    fn followed(&mut self, _: &Followed<'_>) {}

    fn forget(&mut self, _: u64) {}
}

/// A draft that fails costs its trees, and nothing else.
#[test]
fn a_job_outlives_its_draft() {
    let model = named("llama").unwrap();
    let (expected, _) = answers(&model, &PLAIN, 0).unwrap();
    let run = Run { draft: Draft::Failing, budget: 16, ..PLAIN };
    let (found, stats) = answers(&model, &run, 0).unwrap();
    assert_eq!(found, expected);
    assert_eq!(stats.passes, 2);
    assert!(stats.failure.unwrap().contains("the draft"));
}

/// A draft that is the target is right as deep as its trees go.
#[test]
fn the_target_drafts_for_itself() {
    let run = |shares_noise, budget| Run {
        draft: Draft::Model("llama".into(), shares_noise),
        budget,
        batch: 1,
        ..PLAIN
    };
    let stats = check("llama", &[run(true, 6), run(true, 6), run(false, 6)]);
    for (at, stats) in stats.iter().enumerate() {
        let tokens = stats.tokens_per_pass();
        // Without the noise a sampled token is seldom the likeliest of a random model.
        let least = if at < 2 { 3.5 } else { 2.0 };
        assert!(tokens > least, "{at}: {tokens}, {stats:?}");
    }
}

/// What was accepted lies in the draft's cache as a fresh prefill would have it: a draft that is the target
/// goes on being right, without noise to the last node of every chain.
#[test]
fn the_cache_of_a_draft_stays_that_of_its_sequence() {
    let model = named("llama").unwrap();
    for (batch, shape) in [(1, TreeShape::Chain), (3, TreeShape::Chain), (1, TreeShape::Static)] {
        let config =
            EngineConfig { batch, prefill_chunk: 9, context_len: 128, tree_budget: 5 * batch };
        let target = executor(&model, Kind::Cpu, config.rows(), 2048, KvFormat::F16).unwrap();
        let vocab = target.spec().vocab;
        let run = Run { draft: itself("llama"), budget: 5 * batch, shape, ..PLAIN };
        let mut engine = Engine::new(target, &model.tokenizer, config);
        let sizes = SpeculationConfig { budget: run.budget, shape, ..Default::default() };
        let drafter = drafter(&run, config.rows(), vocab);
        engine.speculate(Speculation::new(drafter, sizes, Default::default()));
        let request = |(id, text): (usize, &&str)| Request {
            ignore_eos: true,
            ..greedy(id as u64, &model.tokenizer.encode(text, Special::Parse).unwrap(), 40)
        };
        complete(&mut engine, TEXTS.iter().enumerate().map(request).collect());
        let stats = engine.speculation().unwrap().stats();
        let deep = stats.accepted as f64 / stats.heights as f64;
        // A static tree may have its depth where the target does not go, at another rank.
        let least = if shape == TreeShape::Chain { 1.0 } else { 0.5 };
        assert!(deep >= least, "{shape:?}, batch {batch}: {stats:?}");
    }
}

#[test]
fn trees_change_no_token_of_a_real_model() {
    let draft = |draft, budget, batch| Run { draft, budget, batch, ..PLAIN };
    let stats = check(
        "smollm2-135m",
        &[
            draft(itself("smollm2-135m"), 16, 1),
            draft(itself("smollm2-135m"), 64, 8),
            draft(Draft::Lookup, 64, 8),
            draft(Draft::Nonsense, 100, 3),
        ],
    );
    if let Some(first) = stats.first() {
        assert!(first.tokens_per_pass() > 4.0, "{first:?}");
    }
}

/// Two tokens of a tiny vocabulary: over all seeds, what speculation gives has the target's own law.
#[test]
fn sampling_keeps_its_law() {
    let model = named("llama").unwrap();
    let prompt = model.tokenizer.encode("the law", Special::Parse).unwrap();
    let sampling =
        |seed| SamplingParams { temperature: 0.25, top_k: 3, seed, ..Default::default() };
    // The exact law: the target's own distributions along both tokens.
    let mut executor = executor(&model, Kind::Cpu, 16, 256, KvFormat::F16).unwrap();
    let law = |executor: &mut Executor, tokens: &[u32]| -> Vec<(u32, f64)> {
        let bits = sequential(executor, tokens, &[0, 1, 2, 3]);
        let mut all: Vec<(u32, f64)> =
            (0u32..).zip(bits).map(|(id, bits)| (id, f64::from(f32::from_bits(bits)))).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all.truncate(3);
        let weights: Vec<f64> = all.iter().map(|(_, v)| ((v - all[0].1) / 0.25).exp()).collect();
        let sum: f64 = weights.iter().sum();
        all.iter().zip(weights).map(|((id, _), weight)| (*id, weight / sum)).collect()
    };
    let mut expected = Vec::new();
    for (first, p) in law(&mut executor, &prompt) {
        for (second, q) in law(&mut executor, &[&prompt[..], &[first]].concat()) {
            expected.push(([first, second], p * q));
        }
    }
    let draws = 6000;
    let mut counts = vec![0.0; expected.len()];
    let config = EngineConfig { batch: 64, prefill_chunk: 512, context_len: 64, tree_budget: 128 };
    let executor = crate::support::executor(&model, Kind::Cpu, config.rows(), 8192, KvFormat::F16);
    let mut engine = Engine::new(executor.unwrap(), &model.tokenizer, config);
    let run = Run { draft: Draft::Model("qwen3".into(), true), ..PLAIN };
    let speculation = SpeculationConfig { budget: 128, ..Default::default() };
    let drafter = drafter(&run, 64, 300);
    engine.speculate(Speculation::new(drafter, speculation, Default::default()));
    let request =
        |seed| Request { sampling: sampling(seed), ignore_eos: true, ..greedy(seed, &prompt, 2) };
    for done in complete(&mut engine, (0..draws).map(request).collect()) {
        let at = expected.iter().position(|(pair, _)| pair[..] == done.tokens[..]);
        counts[at.unwrap_or_else(|| panic!("{:?} has no probability", done.tokens))] += 1.0;
    }
    let chi2: f64 = expected
        .iter()
        .zip(&counts)
        .map(|((_, p), count)| (count - p * draws as f64).powi(2) / (p * draws as f64))
        .sum();
    // 8 degrees of freedom, alpha = 1e-4.
    assert!(chi2 < 31.8, "chi-square {chi2}: {expected:?} {counts:?}");
}
