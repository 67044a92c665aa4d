//! Where weights live, and how passes are cut, never changes a token.

use crate::support::{Kind, Model, complete, device, greedy, real};
use forebay::exec::{Executor, ExecutorConfig, Resources};
use forebay::generate::{Engine, EngineConfig, Request};
use forebay::kernel::{KvFormat, PAGE_LEN};
use forebay::model::TensorId;
use forebay::quant::Packing;
use forebay::sample::SamplingParams;
use forebay::schedule::{Homes, Matrices, StreamPlan};
use forebay::tokenizer::Special;
use forebay_planner::Tier;
use std::iter;
use std::sync::Arc;

const TEXTS: [&str; 6] = [
    "The capital of France is",
    "def quicksort(items):\n",
    "Once upon a time, in a land far away, there lived a miller who had three sons and a cat.",
    "1, 1, 2, 3, 5, 8,",
    "Q: What is the boiling point of water?\nA:",
    "Roses are red,",
];

/// How a run is cut and placed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// Most sequences, and most prompt positions, of a pass.
    pub(crate) passes: [usize; 2],
    /// Texts that are continued, and by how many tokens.
    pub(crate) work: [usize; 2],
    /// Of a hundred segments, how many live on the device, and how many of the rest in RAM.
    pub(crate) resident: usize,
    pub(crate) in_ram: usize,
    /// Layers that have none of their segments on the device, whatever the above says.
    pub(crate) away: &'static [u32],
    /// Rows of a micro-batch.
    pub(crate) micro_rows: usize,
    /// Bytes of rings beyond the smallest.
    pub(crate) spare: usize,
    /// Reader threads.
    pub(crate) readers: usize,
    /// Homes of the layers' caches, repeated; pages of a window into those off the device.
    pub(crate) caches: &'static [Tier],
    pub(crate) window_pages: usize,
    pub(crate) kv_format: KvFormat,
    /// Home of the residual stream, where the device has memory of its own.
    pub(crate) activations: Tier,
    /// Whether the host attends.
    pub(crate) host: bool,
}

pub(crate) const WEIGHTS: Way = Way {
    passes: [4, 12],
    work: [6, 12],
    resident: 0,
    in_ram: 0,
    away: &[],
    micro_rows: 4,
    spare: 0,
    readers: 1,
    caches: &[Tier::Device],
    window_pages: 0,
    kv_format: KvFormat::F16,
    activations: Tier::Device,
    host: false,
};

pub(crate) fn config(model: &Model, shares_ram: bool, rows: usize, way: Way) -> ExecutorConfig {
    let spec = model.files.spec();
    let matrices = Matrices::new(spec, |id| model.files.packing(id)).unwrap();
    let matrices = matrices.attending_on_host(way.host);
    let layer =
        |(id, _): (TensorId, Packing)| iter::repeat_n(id.layer, matrices.segments(id).len());
    let layers = matrices.iter().flat_map(layer).enumerate();
    let away = |layer: Option<u32>| layer.is_some_and(|layer| way.away.contains(&layer));
    let tiers = layers.map(|(i, layer)| match (i * 37 % 100 < way.resident, i * 61 % 100) {
        (true, _) if !away(layer) => Tier::Device,
        (false, x) if x < way.in_ram && !shares_ram => Tier::Ram,
        _ => Tier::Disk,
    });
    let homes = Homes::from_list(&matrices, tiers);
    let mut rings = StreamPlan::rings_min(spec, &matrices, &homes, shares_ram);
    rings.device += way.spare;
    rings.host += way.spare / 2;
    let caches = way.caches.iter().map(|&home| match home {
        Tier::Ram if shares_ram => Tier::Device,
        home => home,
    });
    ExecutorConfig {
        micro_rows: way.micro_rows,
        homes,
        rings,
        readers: way.readers,
        cache_homes: caches.cycle().take(if way.host { 0 } else { spec.layers.len() }).collect(),
        host_attention: way.host,
        window_pages: way.window_pages,
        kv_format: way.kv_format,
        activations: if shares_ram { Tier::Device } else { way.activations },
        ..ExecutorConfig::resident(rows, 2048 / PAGE_LEN)
    }
}

pub(crate) fn ids(
    model: &Model,
    kind: Kind,
    way: Option<Way>,
    kv_format: KvFormat,
) -> Option<Vec<Vec<u32>>> {
    let Way { passes: [batch, prefill_chunk], work: [texts, tokens], .. } = way.unwrap_or(WEIGHTS);
    let engine_config = EngineConfig { batch, prefill_chunk, context_len: 96, tree_budget: 0 };
    let rows = engine_config.rows();
    let config = match way {
        Some(way) => config(model, kind == Kind::Cpu, rows, way),
        None => ExecutorConfig { kv_format, ..ExecutorConfig::resident(rows, 2048 / PAGE_LEN) },
    };
    let folder = tempfile::tempdir().unwrap();
    let resources = Resources { spill_folder: folder.path().into(), ..Resources::default() };
    let files = Arc::clone(&model.files);
    let executor = Executor::with(device(kind)?, files, config, resources, &mut |_, _| {}).unwrap();
    let mut engine = Engine::new(executor, &model.tokenizer, engine_config);
    let request = |(id, text): (usize, &&str)| {
        let prompt = model.tokenizer.encode(text, Special::Parse).unwrap();
        let temperature = if id.is_multiple_of(2) { 0.0 } else { 0.8 };
        let sampling = SamplingParams { temperature, seed: id as u64, ..SamplingParams::default() };
        Request { sampling, ..greedy(id as u64, &prompt, tokens) }
    };
    let requests = TEXTS.iter().take(texts).enumerate().map(request).collect();
    Some(complete(&mut engine, requests).into_iter().map(|c| c.tokens).collect())
}

const WAYS: [Way; 5] = [
    Way { resident: 100, ..WEIGHTS },
    Way { resident: 50, in_ram: 50, micro_rows: 16, ..WEIGHTS },
    Way { resident: 5, in_ram: 30, micro_rows: 16, spare: 9 << 20, readers: 3, ..WEIGHTS },
    Way { micro_rows: 1, spare: 20 << 20, readers: 2, ..WEIGHTS },
    Way { in_ram: 100, activations: Tier::Ram, ..WEIGHTS },
];

const CACHES: [Way; 4] = [
    Way { resident: 100, caches: &[Tier::Disk], window_pages: 128, ..WEIGHTS },
    Way { resident: 100, caches: &[Tier::Ram], window_pages: 6, micro_rows: 16, ..WEIGHTS },
    // The smallest window there is: one sequence.
    Way { caches: &[Tier::Disk, Tier::Device, Tier::Ram], window_pages: 6, ..WEIGHTS },
    Way {
        resident: 50,
        caches: &[Tier::Ram, Tier::Disk],
        window_pages: 9,
        micro_rows: 3,
        activations: Tier::Ram,
        ..WEIGHTS
    },
];

/// Compressed caches on all three tiers, through windows and without.
const CODES: [Way; 3] = [
    Way { caches: &[Tier::Disk, Tier::Device, Tier::Ram], window_pages: 6, ..Q4 },
    Way { micro_rows: 3, ..Q4 },
    Way {
        caches: &[Tier::Ram, Tier::Disk],
        window_pages: 9,
        kv_format: KvFormat::K8V4,
        micro_rows: 16,
        ..Q4
    },
];

const Q4: Way = Way { resident: 100, kv_format: KvFormat::Q4, ..WEIGHTS };

fn check(name: &str, kind: Kind, ways: &[Way]) {
    let Some(model) = real(name) else { return };
    let formats = KvFormat::ALL.into_iter().filter(|f| ways.iter().any(|w| w.kv_format == *f));
    for format in formats {
        let Some(expected) = ids(&model, kind, None, format) else { return };
        assert!(expected.iter().any(|tokens| tokens.len() == 12));
        for &way in ways.iter().filter(|way| way.kv_format == format) {
            let found = ids(&model, kind, Some(way), format).unwrap();
            assert_eq!(found, expected, "{name}, {kind:?}: {way:?}");
        }
    }
}

#[test]
fn cpu_ids_do_not_depend_on_placement() {
    check("smollm2-135m", Kind::Cpu, &WAYS);
    check("qwen2.5-coder-0.5b", Kind::Cpu, &WAYS[1..4]);
}

#[test]
fn cpu_ids_do_not_depend_on_where_caches_live() {
    check("smollm2-135m", Kind::Cpu, &CACHES);
    check("qwen2.5-coder-0.5b", Kind::Cpu, &CACHES[2..3]);
    check("smollm2-135m", Kind::Cpu, &CODES);
    check("qwen2.5-coder-0.5b", Kind::Cpu, &CODES[..1]);
}

#[test]
fn gpu_ids_do_not_depend_on_where_caches_live() {
    check("smollm2-135m", Kind::Gpu, &CACHES);
    check("smollm2-135m", Kind::Gpu, &CODES[..1]);
}

#[test]
fn gpu_ids_do_not_depend_on_placement() {
    check("smollm2-135m", Kind::Gpu, &WAYS[1..]);
}
