//! Laws that every plan keeps, on random models, machines, jobs and budgets.

use crate::fixture::{Case, Random, desktop, llama, processor, workload};
use forebay_planner::{Inputs, Plan, PlanError, Policy, Split, Tier, plan, predict};

const CASES: u64 = 60;

/// Rounding to segments and layers, and a choice between finalists that the event clock decides.
const ROUNDING: f64 = 1.02;

pub(crate) fn random_case(seed: u64) -> Case {
    let mut random = Random::new(seed);
    let heads = 2 << random.below(3);
    let (layers, ff) = (4 + random.below(20), 64 * (8 + random.below(40)));
    let mut model = llama(layers, 1024, heads, 2, ff, 1000 + random.below(30_000));
    if random.unit() < 0.3 {
        model.layers.iter_mut().step_by(2).for_each(|layer| layer.window = Some(128));
    }
    let mut hw = if random.unit() < 0.4 { processor() } else { desktop() };
    hw.upload_bytes_per_sec *= random.between(0.2, 3.0);
    hw.disk.read_bytes_per_sec *= random.between(0.1, 4.0);
    hw.upload_overlap = random.between(0.5, 1.0);
    hw.disk.overlap = random.between(0.5, 1.0);
    let mut requests = Vec::new();
    for _ in 0..1 + random.below(4) {
        requests.push((1 + random.below(900), 1 + random.below(200), 1 + random.below(150)));
    }
    let whole = model.weight_bytes() as f64;
    let budget =
        |low: f64, high: f64, random: &mut Random| (whole * random.between(low, high)) as u64;
    let device = budget(0.1, 2.0, &mut random);
    let ram = (64 << 20) + budget(0.05, 3.0, &mut random);
    let mut case =
        Case::new(model, hw, workload(&requests), [device, ram, budget(0.5, 10.0, &mut random)]);
    if random.unit() < 0.3 {
        case.formats.push("q4".into());
    }
    case
}

/// Plans of the cases that have one.
fn planned() -> impl Iterator<Item = (u64, Case, Plan)> {
    (0..CASES).filter_map(|seed| {
        let case = random_case(seed);
        let plan = plan(&case.inputs()).ok()?;
        Some((seed, case, plan))
    })
}

#[test]
fn bytes_add_up_and_stay_within_budgets() {
    let mut seen = 0;
    for (seed, case, plan) in planned() {
        seen += 1;
        let (model, policy) = (&case.model, &plan.policy);
        assert_eq!(policy.weights.total(), model.weight_bytes(), "seed {seed}");
        let mut weights = Split::default();
        for (matrix, homes) in model.matrices().zip(&policy.homes) {
            assert_eq!(matrix.segments.len(), homes.len());
            matrix.segments.iter().zip(homes).for_each(|(b, &home)| *weights.on_mut(home) += b);
        }
        assert_eq!(weights, policy.weights, "seed {seed}");
        let format =
            case.footprint.pages.iter().find(|(name, _)| *name == policy.kv_format).unwrap();
        let mut kv = Split::default();
        for (&page, &home) in format.1.iter().zip(&policy.kv_homes) {
            *kv.on_mut(home) += page * policy.pages as u64;
        }
        assert_eq!(kv, policy.kv, "seed {seed}");
        let mut budgets = case.budgets;
        budgets.device = if case.hardware.shares_ram { 0 } else { budgets.device };
        let total = plan.memory.total();
        assert_eq!(total.beyond(&budgets), Split::default(), "seed {seed}: {total:?} {budgets:?}");
        assert!(policy.pages >= model.pages(case.workload.longest()), "seed {seed}");
    }
    assert!(seen > CASES / 2, "only {seen} of {CASES} cases have a plan");
}

#[test]
fn the_ring_holds_any_two_neighbouring_parts_of_layers() {
    for (seed, case, plan) in planned() {
        let shares_ram = case.hardware.shares_ram;
        let ring = if shares_ram { plan.policy.ring.ram } else { plan.policy.ring.device };
        let streams = |home: &Tier| *home == Tier::Disk || (*home == Tier::Ram && !shares_ram);
        let mut homes = plan.policy.homes.iter();
        let mut bytes = |matrices: &[forebay_planner::MatrixShape]| -> u64 {
            let homes = matrices.iter().flat_map(|m| m.segments.iter().zip(homes.next().unwrap()));
            homes.filter(|(_, home)| streams(home)).map(|(bytes, _)| bytes).sum()
        };
        let mut parts = Vec::new();
        for layer in &case.model.layers {
            parts.push(bytes(&layer.attention));
            parts.push(bytes(&layer.feed_forward));
        }
        // The head comes in runs where it does not fit beside its neighbours.
        let head = bytes(std::slice::from_ref(&case.model.head));
        let segment = case.model.head.segments.iter().max().unwrap();
        assert!(
            ring >= head.min(3 * segment),
            "seed {seed}: a ring of {ring} for a head of {head}"
        );
        let after = parts.iter().cycle().skip(1);
        let pair = parts.iter().zip(after).map(|(a, b)| a + b).max().unwrap();
        assert!(ring >= pair, "seed {seed}: a ring of {ring} for {pair}");
    }
}

#[test]
fn a_plan_is_predicted_as_it_was_planned_and_planned_again_the_same() {
    for (seed, case, planned) in planned().take(12) {
        let predicted = predict(&case.inputs(), &planned.policy).unwrap();
        let difference = predicted.seconds() / planned.seconds() - 1.0;
        assert!(difference.abs() < 1e-9, "seed {seed}: {difference}");
        assert_eq!(predicted.memory, planned.memory, "seed {seed}");
        assert_eq!(plan(&case.inputs()).unwrap(), planned, "seed {seed}");
    }
}

/// A policy may be followed for a workload with longer sequences than it was made for.
#[test]
fn windows_are_those_of_the_workload() {
    let mut away = 0;
    for (seed, case, planned) in planned() {
        let policy = Policy { window_pages: 0, ..planned.policy.clone() };
        let predicted = predict(&case.inputs(), &policy).unwrap();
        assert_eq!(predicted.memory, planned.memory, "seed {seed}");
        assert!(predicted.policy.window_pages >= planned.policy.window_pages, "seed {seed}");
        away += usize::from(planned.policy.window_pages > 0);
    }
    assert!(away > 0, "no plan has windows");
}

#[test]
fn more_memory_or_a_faster_disk_is_never_slower() {
    for (seed, case, planned) in planned() {
        let better = |inputs: Inputs<'_>, what: &str| {
            let seconds = plan(&inputs).unwrap().seconds();
            let most = planned.seconds() * ROUNDING;
            assert!(
                seconds <= most,
                "seed {seed}: {seconds} after {} with more {what}",
                planned.seconds()
            );
        };
        for tier in Tier::ALL {
            let mut budgets = case.budgets;
            *budgets.on_mut(tier) += budgets.on(tier) / 3;
            better(Inputs { budgets, ..case.inputs() }, &tier.to_string());
        }
        let mut hardware = case.hardware.clone();
        hardware.disk.read_bytes_per_sec *= 1.5;
        hardware.disk.write_bytes_per_sec *= 1.5;
        better(Inputs { hardware: &hardware, ..case.inputs() }, "disk rate");
        for (change, seconds) in &planned.what_ifs {
            assert!(*seconds <= planned.seconds(), "seed {seed}: {change}");
        }
    }
}

#[test]
fn what_is_named_as_missing_is_enough_and_no_less_is() {
    let mut refused = 0;
    for seed in 0..4 * CASES {
        let mut case = random_case(seed);
        let Split { device, ram, disk } = case.budgets;
        case.budgets = Split { device: device / 8, ram: ram / 6, disk: disk / 20 };
        let Err(PlanError::DoesNotFit { missing, budgets, .. }) = plan(&case.inputs()) else {
            continue;
        };
        refused += 1;
        let granted = |less: u64| {
            let given = |tier: Tier| budgets.on(tier) + missing.on(tier).saturating_sub(less);
            Split { device: given(Tier::Device), ram: given(Tier::Ram), disk: given(Tier::Disk) }
        };
        let enough = Inputs { budgets: granted(0), ..case.inputs() };
        assert!(plan(&enough).is_ok(), "seed {seed}: {missing:?} is not enough");
        let less = Inputs { budgets: granted(1), ..case.inputs() };
        assert!(plan(&less).is_err(), "seed {seed}: less than {missing:?} is enough");
    }
    assert!(refused > 20, "{refused} cases were refused");
}
