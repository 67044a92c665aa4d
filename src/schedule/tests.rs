//! Laws of schedules over models and homes of many shapes.

use super::*;
use crate::kernel::{Activation, RopeStyle};
use crate::model::{LayerSpec, ModelSpec, RopeSpec, TensorId};
use crate::quant::{DType, Packing};
use forebay_planner::Tier;
use proptest::prelude::*;
use std::convert::Infallible;

fn spec(layers: usize, hidden: usize, feed_forward: usize, vocab: usize) -> ModelSpec {
    let layer = LayerSpec {
        heads: hidden / 64,
        kv_heads: 1,
        head_dim: 64,
        feed_forward,
        window: None,
        rope: 0,
        attention_scale: 0.125,
        activation: Activation::Silu,
        qkv_bias: false,
        qk_norm: false,
        post_norms: false,
    };
    ModelSpec {
        architecture: "llama".into(),
        name: "test".into(),
        hidden,
        vocab,
        context_len: 128,
        norm_eps: 1e-5,
        norm_offset: 0.0,
        embed_scale: 1.0,
        tied_head: true,
        ropes: vec![RopeSpec { style: RopeStyle::Halves, inv_freq: vec![1.0; 32] }],
        layers: vec![layer; layers],
    }
}

fn matrices(spec: &ModelSpec) -> Matrices {
    let packing = |id: TensorId| {
        let (rows, cols) = spec.shape(id);
        Ok::<_, Infallible>(Packing::new(DType::Q4_0, rows, cols))
    };
    Matrices::new(spec, packing).unwrap()
}

fn tier() -> impl Strategy<Value = Tier> {
    prop_oneof![Just(Tier::Device), Just(Tier::Ram), Just(Tier::Disk)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever lives where, a plan with the smallest rings or larger ones plays to its end: nothing is
    /// used before it arrives, nothing in use is overwritten, and the planned bytes move.
    #[test]
    fn plans_play_to_the_end(
        tiers in prop::collection::vec(tier(), 600),
        spare in 0usize..40_000_000,
        shares_ram in any::<bool>(),
        micro_batches in 1usize..5,
        slices in 0usize..2,
        host_attention in any::<bool>(),
    ) {
        let spec = spec(3, 1024, 8192, 20_000);
        let matrices = matrices(&spec).attending_on_host(host_attention);
        let tiers = tiers.into_iter().map(|tier| match tier {
            Tier::Ram if shares_ram => Tier::Device,
            tier => tier,
        });
        let homes = Homes::from_list(&matrices, tiers);
        let least = StreamPlan::rings_min(&spec, &matrices, &homes, shares_ram);
        let rings = RingSizes { device: least.device + spare, host: least.host + spare / 3 };
        let plan = StreamPlan::new(&spec, &matrices, &homes, rings, shares_ram).unwrap();
        check(&plan, PassShape { micro_batches, slices }, 4).unwrap();
        let total: u64 = [Tier::Device, Tier::Ram, Tier::Disk]
            .map(|tier| plan.bytes_at(&homes, tier)).iter().sum();
        prop_assert_eq!(total, matrices.iter().map(|(_, p)| p.bytes() as u64).sum::<u64>());
        let covered: usize = plan.parts.iter().map(|part| part.segments.len()).sum();
        let all: usize = matrices.iter().map(|(id, _)| matrices.segments(id).len()).sum();
        prop_assert_eq!(covered, all);
    }
}

/// Every part in the ring twice over: loads and computing overlap fully.
fn streamed(rate: f64) -> (StreamPlan, Costs) {
    let spec = spec(8, 1024, 8192, 20_000);
    let matrices = matrices(&spec);
    let homes = Homes::from_list(&matrices, std::iter::repeat(Tier::Disk));
    let least = StreamPlan::rings_min(&spec, &matrices, &homes, true);
    let rings = RingSizes { device: 3 * least.device, host: 0 };
    let plan = StreamPlan::new(&spec, &matrices, &homes, rings, true).unwrap();
    (plan, Costs { rate, attention: 0.0, upload: 0.0 })
}

struct Costs {
    rate: f64,
    attention: f64,
    /// Seconds of a byte.
    upload: f64,
}

impl StepCosts for Costs {
    fn compute_seconds(&self, step: Step) -> f64 {
        if matches!(step, Step::Run { .. } | Step::Head { .. }) { 0.01 } else { 0.0 }
    }
    fn attention_seconds(&self, _step: Step) -> f64 {
        self.attention
    }
    fn read_seconds(&self, bytes: usize) -> f64 {
        bytes as f64 / self.rate
    }
    fn upload_seconds(&self, bytes: usize) -> f64 {
        bytes as f64 * self.upload
    }
    fn upload_overlap(&self) -> f64 {
        0.5
    }
    fn read_overlap(&self) -> f64 {
        1.0
    }
    fn page_seconds(&self, step: Step) -> PageSeconds {
        match step {
            Step::LoadPages { .. } => PageSeconds { disk: self.rate, link: 0.0 },
            Step::AwaitPages { .. } => PageSeconds { disk: 0.0, link: 0.001 },
            _ => PageSeconds::default(),
        }
    }
}

/// Pages of the next turn come while this one computes, and no earlier: a turn takes the longer of both.
#[test]
fn a_simulated_turn_waits_for_its_pages() {
    let (mut plan, _) = streamed(1.0);
    let shape = PassShape { micro_batches: 2, slices: 1 };
    let pass = |plan: &StreamPlan, page_seconds: f64| {
        let resting = StreamPlan { streams: Vec::new(), ..plan.clone() };
        let steps = pass_steps(plan, shape);
        let steps: Vec<Step> = steps
            .into_iter()
            .filter(|step| !matches!(step, Step::Await { .. } | Step::Upload { .. }))
            .collect();
        Simulation::new(&resting).pass(
            &resting,
            &steps,
            &Costs { rate: page_seconds, attention: 0.0, upload: 0.0 },
        )
    };
    let resident = pass(&plan, 0.0);
    plan.caches.fill(Tier::Disk);
    let turns = 2.0 * plan.caches.len() as f64;
    let quick = pass(&plan, 0.0);
    assert!((quick - resident - turns * 0.001).abs() < 1e-9, "{quick} against {resident}");
    let slow = pass(&plan, 1.0);
    assert!(slow > turns && slow < turns + resident, "{slow} for {turns} turns");
}

#[test]
fn a_simulated_pass_takes_the_longer_of_reading_and_computing() {
    let shape = PassShape { micro_batches: 2, slices: 1 };
    for speed in [0.25, 1.0, 4.0] {
        let (plan, _) = streamed(1.0);
        let steps = pass_steps(&plan, shape);
        let costs = Costs { rate: 1.0, attention: 0.0, upload: 0.0 };
        let compute: f64 = steps.iter().map(|&step| costs.compute_seconds(step)).sum();
        let costs = Costs {
            rate: plan.bytes_from(Tier::Disk) as f64 / compute * speed,
            attention: 0.0,
            upload: 0.0,
        };
        let load = compute / speed;
        let mut clock = Simulation::new(&plan);
        for _ in 0..3 {
            clock.pass(&plan, &steps, &costs);
        }
        let pass = clock.pass(&plan, &steps, &costs);
        let most = load.max(compute);
        assert!(pass >= 0.999 * most && pass < 1.15 * most, "{pass} against {load}, {compute}");
    }
}

/// With one micro-batch device and host take turns; with more, one works while the other does.
#[test]
fn the_host_attends_beside_the_device() {
    let spec = spec(8, 1024, 8192, 20_000);
    let matrices = matrices(&spec).attending_on_host(true);
    let homes = Homes::resident();
    let plan = StreamPlan::new(&spec, &matrices, &homes, RingSizes::default(), false).unwrap();
    let pass = |micro_batches: usize, attention: f64| {
        let shape = PassShape { micro_batches, slices: 0 };
        let costs = Costs { rate: 1.0, attention, upload: 0.0 };
        Simulation::new(&plan).pass(&plan, &pass_steps(&plan, shape), &costs)
    };
    // A layer is two turns of 0.01 s for each micro-batch.
    assert!((pass(1, 0.01) - 8.0 * 0.03).abs() < 1e-9);
    assert!((pass(4, 0.01) - 8.0 * 0.08).abs() < 1e-9, "{}", pass(4, 0.01));
    // The host is the slower one: it waits for the first projection, the device for its last.
    assert!((pass(4, 0.1) - 8.0 * 0.42).abs() < 1e-9, "{}", pass(4, 0.1));
}

/// What is uploaded while a draft computes need not be waited for: of a ring that holds half of the weights, half.
#[test]
fn a_ring_that_fills_beside_a_draft_saves_its_uploads() {
    let spec = spec(8, 1024, 8192, 20_000);
    let matrices = matrices(&spec);
    let homes = Homes::from_list(&matrices, std::iter::repeat(Tier::Ram));
    let probe = StreamPlan::rings_min(&spec, &matrices, &homes, false);
    let bytes = |plan: &StreamPlan| plan.bytes_from(Tier::Ram) as f64;
    let least = StreamPlan::new(&spec, &matrices, &homes, probe, false).unwrap();
    let rings = RingSizes { device: bytes(&least) as usize / 2, host: 0 };
    let plan = StreamPlan::new(&spec, &matrices, &homes, rings, false).unwrap();
    let ahead: usize = plan.streams[..streams_ahead(&plan)].iter().map(|s| s.bytes).sum();
    let part = ahead as f64 / bytes(&plan);
    assert!((0.3..0.5).contains(&part), "{part} of all weights fit into half of them");
    let costs = Costs { rate: 1.0, attention: 0.0, upload: 10.0 / bytes(&plan) };
    let steps = pass_steps(&plan, PassShape { micro_batches: 1, slices: 1 });
    let pass = |fills: bool| {
        let mut clock = Simulation::new(&plan);
        let mut last = 0.0;
        for _ in 0..3 {
            if fills {
                clock.fill_ahead(&plan, &costs);
            }
            clock.idle(100.0);
            last = clock.pass(&plan, &steps, &costs);
        }
        last
    };
    let (with, without) = (pass(true), pass(false));
    let early = uploads_ahead(&plan).count() as f64 / plan.streams.len() as f64;
    let saved = (without - with) / without;
    assert!((saved - early).abs() < 0.1, "{with} and {without}: {saved}, {early} are ahead");
}
