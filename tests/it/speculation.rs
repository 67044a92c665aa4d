//! Draft trees change no token: whatever the draft, the budget, the batch, the sampling and the place.

use crate::placement::{WEIGHTS, Way, config as placed};
use crate::support::{Kind, Model, complete, device, executor, fixture, greedy, open, real};
use forebay::exec::{Executor, Resources};
use forebay::generate::{
    DraftError, DraftLookup, DraftModel, Draftable, Drafter, Engine, EngineConfig, Followed,
    GrowthPlan, Request, Speculation, SpeculationConfig, SpeculationStats, Target, TreeShape,
};
use forebay::kernel::KvFormat;
use forebay::sample::SamplingParams;
use forebay::schedule::{Batch, CacheMove, Span, TreeSpan};
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

/// What grows the trees.
#[derive(Clone, Debug)]
enum Draft {
    /// A model, with trees on the noise of sampling or without.
    Model(String, bool),
    Lookup,
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
        Draft::Model(name, shares_noise) => {
            let model = named(name).expect("the target is there too");
            // Few rows, so that rounds and prompts take several passes.
            let executor = executor(&model, run.kind, rows.min(11), 1024, KvFormat::F16).unwrap();
            Box::new(DraftModel::new(executor, vocab, *shares_noise, &Default::default()))
        }
    }
}

/// A tiny model of the fixtures, or a real one.
fn named(name: &str) -> Option<Model> {
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

/// The ids of all requests, and what speculation did.
fn ids(model: &Model, run: &Run, shift: usize) -> Option<(Vec<Vec<u32>>, SpeculationStats)> {
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
        let config = SpeculationConfig { budget, shape: run.shape, ..Default::default() };
        engine.speculate(Speculation::new(drafter, config, Default::default()));
    }
    let request = |(id, text): (usize, &&str)| {
        let prompt = model.tokenizer.encode(text, Special::Parse).unwrap();
        let stop = if id == 3 { vec!["e".to_string()] } else { Vec::new() };
        Request { sampling: sampling(id + shift), stop, ..greedy(id as u64, &prompt, 20) }
    };
    let requests = TEXTS.iter().enumerate().map(request).collect();
    let done = complete(&mut engine, requests);
    if positions < 200 && budget == 0 {
        assert!(engine.stats().preemptions > 0, "the small cache was meant to preempt");
    }
    let stats = engine.speculation().map(|s| s.stats().clone()).unwrap_or_default();
    Some((done.into_iter().map(|completion| completion.tokens).collect(), stats))
}

/// Runs all ways; returns what speculation did in each.
fn check(target: &str, runs: &[Run]) -> Vec<SpeculationStats> {
    let Some(model) = named(target) else { return Vec::new() };
    let mut all = Vec::new();
    for (at, run) in runs.iter().enumerate() {
        let plain = Run { budget: 0, batch: 3, way: None, positions: 2048, ..run.clone() };
        let Some((expected, _)) = ids(&model, &plain, at) else { return all };
        assert!(expected.iter().any(|tokens| tokens.len() == 20));
        let (found, stats) = ids(&model, run, at).unwrap();
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
        ];
        let run = |(kind, at, budget, batch): (Kind, usize, usize, usize)| Run {
            kind,
            draft: Draft::clone(&drafts[at]),
            budget,
            batch,
            ..PLAIN
        };
        let sizes = [(1, 1), (16, 8), (128, 1), (128, 8)];
        let cpu = (0..5).flat_map(|at| sizes.map(|(budget, batch)| (Kind::Cpu, at, budget, batch)));
        let reference = (0..5).map(|at| (Kind::Reference, at, 16, 8));
        // The software adapter takes its time.
        let gpu = [0, 4].map(|at| (Kind::Gpu, at, 16, 8));
        check(target, &cpu.chain(reference).chain(gpu).map(run).collect::<Vec<_>>());
    }
}

#[test]
fn shaped_trees_change_no_token() {
    for shape in [TreeShape::Static, TreeShape::Chain] {
        let run = |draft, batch| Run { draft, budget: 24, batch, shape, ..PLAIN };
        let itself = Draft::Model("qwen2".into(), true);
        let runs = [run(itself.clone(), 1), run(itself, 8), run(Draft::Lookup, 3)];
        let stats = check("qwen2", &runs);
        assert!(stats[0].tokens_per_tree() > 2.0, "{shape:?}: {:?}", stats[0]);
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
    for target in ["qwen2", "gemma3"] {
        let run = |kind, way: Way, draft| {
            let kv_format = way.kv_format;
            Run { kind, draft, budget: 24, way: Some(way), kv_format, ..PLAIN }
        };
        let drafts = || [itself(target), Draft::Nonsense];
        let cpu = ways.iter().flat_map(|&way| drafts().map(|draft| run(Kind::Cpu, way, draft)));
        let gpu = drafts().into_iter().zip(&ways[1..]);
        let gpu = gpu.map(|(draft, &way)| run(Kind::Gpu, way, draft));
        check(target, &cpu.chain(gpu).collect::<Vec<_>>());
    }
    let host = Way { resident: 100, host: true, micro_rows: 5, ..WEIGHTS };
    let run = Run { kind: Kind::Gpu, draft: itself("qwen2"), budget: 24, ..PLAIN };
    let model = named("qwen2").unwrap();
    let plain = Run { way: Some(host), budget: 0, ..run.clone() };
    let Some(expected) = ids(&model, &plain, 0) else { return };
    assert_eq!(ids(&model, &Run { way: Some(host), ..run }, 0).unwrap().0, expected.0);
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
        assert!(stats[0].tokens_per_tree() > 3.5, "{target}: {:?}", stats[0]);
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
        ids(&named("llama").unwrap(), &Run { budget: 0, ..run }, 0);
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
    let (expected, _) = ids(&model, &PLAIN, 0).unwrap();
    let run = Run { draft: Draft::Failing, budget: 16, ..PLAIN };
    let (found, stats) = ids(&model, &run, 0).unwrap();
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
        let tokens = stats.tokens_per_tree();
        // Without the noise a sampled token is seldom the likeliest of a random model.
        let least = if at < 2 { 3.5 } else { 2.0 };
        assert!(tokens > least, "{at}: {tokens}, {stats:?}");
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
        assert!(first.tokens_per_tree() > 4.0, "{first:?}");
    }
}

/// The logits of all outputs of a pass, bit by bit.
fn logits(executor: &mut Executor, batch: &Batch) -> Vec<Vec<u32>> {
    let (vocab, mut all) = (executor.spec().vocab, Vec::new());
    let mut each = |_: usize, logits: &[f32]| {
        all.extend(logits.chunks_exact(vocab).map(|row| row.iter().map(|v| v.to_bits()).collect()));
    };
    executor.pass(batch, &mut each).unwrap();
    all
}

/// The logits after the last of `tokens`, from a fresh cache, position by position.
fn sequential(executor: &mut Executor, tokens: &[u32], pages: &[u32]) -> Vec<u32> {
    let mut last = Vec::new();
    for start in 0..tokens.len() {
        let mut batch = Batch::default();
        let tokens = &tokens[start..=start];
        batch.push(Span { tokens, start, pages, logits: 1, moves: &[] });
        last = logits(executor, &batch).remove(0);
    }
    last
}

/// A tree's rows have the bits of plain sequences, whatever came before them; what is accepted and moved
/// gives the bits of a fresh prefill; logits can be asked for later.
#[test]
fn a_tree_computes_what_its_paths_would() {
    for name in ["llama", "qwen2", "gemma3"] {
        let model = named(name).unwrap();
        for kind in [Kind::Reference, Kind::Cpu, Kind::Gpu] {
            for kv_format in [KvFormat::F16, KvFormat::Q4] {
                let Some(mut executor) = executor(&model, kind, 64, 512, kv_format) else { return };
                check_tree(&mut executor, &format!("{name}, {kind:?}, {kv_format}"));
            }
        }
    }
}

fn check_tree(executor: &mut Executor, what: &str) {
    let pages: Vec<u32> = (0..8).rev().collect();
    let other: Vec<u32> = (10..18).collect();
    // Two chains and a fan below the root, rows not in the order of depth.
    let nodes = [5u32, 6, 7, 8, 9, 10, 11, 12];
    let parents = [0usize, 0, 1, 2, 0, 4, 5, 2];
    let path = |node: usize| {
        let up = std::iter::successors(Some(node), |&at| (at > 0).then(|| parents[at]));
        let mut path: Vec<u32> = up.filter(|&at| at > 0).map(|at| at as u32).collect();
        path.reverse();
        path
    };
    let paths: Vec<Vec<u32>> = (0..nodes.len()).map(path).collect();
    for length in [1usize, 2, 14, 40] {
        let prompt: Vec<u32> = (0..length as u32).map(|i| 20 + i * 7 % 200).collect();
        let root = nodes[0];
        let mut batch = Batch::default();
        // The prompt comes in the tree's own pass for some lengths.
        let joined = length.is_multiple_of(2);
        if !joined {
            batch.push(Span { tokens: &prompt, start: 0, pages: &pages, logits: 0, moves: &[] });
            logits(executor, &batch);
            batch.clear();
        }
        batch.push_tree(TreeSpan {
            lead: if joined { &prompt } else { &[] },
            tokens: &nodes,
            paths: &paths,
            start: length,
            pages: &pages,
            outputs: &[0, 3, 7],
            moves: &[],
        });
        let found = logits(executor, &batch);
        let of = |executor: &mut Executor, node: usize, more: &[u32]| {
            let path = paths[node].iter().map(|&at| nodes[at as usize]);
            let tokens: Vec<u32> = prompt
                .iter()
                .copied()
                .chain([root])
                .chain(path)
                .chain(more.iter().copied())
                .collect();
            sequential(executor, &tokens, &other)
        };
        let first = if joined { length } else { 0 };
        let mut rest = Vec::new();
        let vocab = executor.spec().vocab;
        let rows: Vec<usize> = [1, 2, 4, 5, 6].iter().map(|node| first + node).collect();
        let mut each = |_: usize, all: &[f32]| {
            let rows = all.chunks_exact(vocab);
            rest.extend(rows.map(|row| row.iter().map(|v| v.to_bits()).collect::<Vec<_>>()));
        };
        executor.logits_of(&rows, &mut each).unwrap();
        let nodes_in_turn = [0, 3, 7].into_iter().zip(found);
        for (node, bits) in nodes_in_turn.chain([1, 2, 4, 5, 6].into_iter().zip(rest)) {
            assert!(of(executor, node, &[]) == bits, "{what}: node {node} after {length}");
        }
        // Rows 4, 5, 6 are accepted and move to where 1, 2, 3 were.
        let start = length as u32;
        let moves: Vec<CacheMove> = (1..4).map(|d| (start + d + 3, start + d)).collect();
        let (tokens, start) = (&[30, 31][..], length + 4);
        batch.clear();
        batch.push(Span { tokens, start, pages: &pages, logits: 1, moves: &moves });
        let after = logits(executor, &batch).remove(0);
        assert!(of(executor, 6, &[30, 31]) == after, "{what}: accepted after {length}");
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
