//! Draft trees in a plan: when they are grown, how large, and what they may never cost.

use crate::fixture::{Case, GIB, MIB, desktop, llama, processor, speculation, workload};
use crate::laws::random_case;
use forebay_planner::{
    Change, Draft, HardwareProfile, Plan, PlanError, Speculation, Split, Tier, plan, predict,
};

/// Rounding to segments and layers, and a choice between finalists that the event clock decides.
const ROUNDING: f64 = 1.02;

/// What room for larger trees may cost.
const ROOM: f64 = 1.03;

fn medium(budgets: [u64; 3], requests: usize) -> Case {
    let job = workload(&[(50, 400, requests)]);
    let mut case = Case::new(llama(16, 2048, 32, 8, 8192, 32_000), desktop(), job, budgets);
    case.workload.speculation = Some(speculation(60 * MIB, 4e-3, false));
    case
}

fn random_speculation(seed: u64) -> Case {
    let mut case = random_case(seed);
    let shares_ram = case.hardware.shares_ram;
    let bytes = case.model.weight_bytes() / (4 << (seed % 4));
    let seconds = [1e-4, 1e-3, 1e-2][seed as usize % 3];
    case.workload.speculation = Some(speculation(bytes, seconds, shares_ram));
    case
}

fn of(case: &mut Case) -> &mut Speculation {
    case.workload.speculation.as_mut().expect("it was given")
}

#[test]
fn a_streamed_model_with_one_sequence_grows_large_trees() {
    let case = medium([400 * MIB, 8 * GIB, 0], 1);
    let grown = plan(&case.inputs()).unwrap();
    let policy = &grown.policy;
    assert!(policy.tree_budget >= 32, "{:?}", grown.by_budget);
    assert!(grown.tokens_per_pass > 4.0, "{}", grown.tokens_per_pass);
    assert!(grown.terms.draft > 0.0 && policy.draft.is_some());
    assert!(policy.homes.last().unwrap().iter().all(|&home| home == Tier::Device));
    let off = grown.by_budget[0];
    let slower = off.seconds > 2.0 * grown.seconds();
    assert!(off.tree_budget == 0 && slower, "{:?}", grown.by_budget);
    assert_eq!(off.break_even, Some(1.0));
    let chosen = grown.by_budget.iter().find(|of| of.tree_budget == policy.tree_budget).unwrap();
    assert!(chosen.break_even.unwrap() < chosen.tokens_per_pass, "{chosen:?}");
    let least = grown.by_budget.iter().map(|of| of.seconds).fold(f64::INFINITY, f64::min);
    assert!(grown.seconds() <= ROOM * least, "{:?}", grown.by_budget);
    let mut larger = grown.by_budget.iter().filter(|of| of.tree_budget > policy.tree_budget);
    assert!(larger.all(|of| of.seconds > ROOM * least), "{:?}", grown.by_budget);
    // Rows up to N* are free, and beyond they cost.
    let rows = grown.curve.iter().map(|&(rows, _)| rows).collect::<Vec<_>>();
    assert!(rows[0] == 1 && rows[rows.len() - 1] == policy.rows(), "{rows:?}");
    assert!(grown.free_rows > 32.0 && grown.free_rows.is_finite(), "{}", grown.free_rows);
    assert!(grown.curve.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{:?}", grown.curve);
    let at_least = |rows: usize| grown.curve.iter().find(|&&(r, _)| r >= rows).unwrap().1;
    assert!(at_least(16) < 1.2 * at_least(1), "{:?}", grown.curve);
}

#[test]
fn a_batch_that_fills_the_pass_grows_none() {
    let case = medium([40 * GIB, 8 * GIB, 0], 2000);
    let plain = plan(&case.inputs()).unwrap();
    assert_eq!((plain.policy.tree_budget, plain.policy.draft), (0, None), "{:?}", plain.by_budget);
    assert_eq!((plain.tokens_per_pass, plain.terms.draft), (1.0, 0.0));
    assert_eq!(plain.memory.draft, Split::default());
    assert!(plain.by_budget.len() > 3, "{:?}", plain.by_budget);
    let mut trees = plain.by_budget.iter().filter(|of| of.tree_budget > 0);
    let loses = trees.all(|of| of.break_even.unwrap() > 0.97 * of.tokens_per_pass);
    assert!(loses, "{:?}", plain.by_budget);
    assert_eq!(plain.free_rows, 0.0);
}

#[test]
fn lookup_takes_no_time_and_memory_by_positions() {
    let mut case = medium([300 * MIB, 8 * GIB, 0], 1);
    of(&mut case).drafts.clear();
    of(&mut case).lookup_bytes = 100;
    let grown = plan(&case.inputs()).unwrap();
    assert!(grown.policy.tree_budget > 0 && grown.policy.draft.is_none());
    let bytes = 100 * (grown.policy.pages * case.model.page_positions) as u64;
    assert_eq!((grown.terms.draft, grown.memory.draft), (0.0, Split::all(Tier::Ram, bytes)));
    assert_eq!(predict(&case.inputs(), &grown.policy).unwrap().seconds(), grown.seconds());
}

#[test]
fn a_draft_is_where_it_is_worth_most() {
    // In device memory its passes are short; where the weights need that memory more, it goes to RAM.
    let mut case = medium([700 * MIB, 8 * GIB, 0], 1);
    assert_eq!(plan(&case.inputs()).unwrap().policy.draft, Some(Tier::Device));
    let bytes = |draft: &mut Draft| draft.bytes = Split::all(draft.home, 500 * MIB);
    of(&mut case).drafts.iter_mut().for_each(bytes);
    of(&mut case).drafts[0].pass_seconds = of(&mut case).drafts[1].pass_seconds.clone();
    assert_eq!(plan(&case.inputs()).unwrap().policy.draft, Some(Tier::Ram));
    case.pins.draft = Some(Tier::Device);
    case.pins.tree_budget = Some(48);
    let pinned = plan(&case.inputs()).unwrap();
    assert_eq!((pinned.policy.draft, pinned.policy.tree_budget), (Some(Tier::Device), 48));
    assert!(pinned.memory.draft.device >= 500 * MIB);
}

/// A target with `share` percent of its weights near that drafts for itself.
fn drafts_itself(share: u64, hardware: HardwareProfile) -> Case {
    let near = if hardware.shares_ram { Tier::Ram } else { Tier::Device };
    let mut case = Case { hardware, ..medium([0, 64 * GIB, 64 * GIB], 1) };
    *case.budgets.on_mut(near) = case.model.weight_bytes() * share / 100 + 400 * MIB;
    let nothing = Split::default();
    let Draft { pass_seconds, .. } = of(&mut case).drafts[0].clone();
    of(&mut case).drafts = vec![Draft {
        home: near,
        is_target: true,
        pass_seconds,
        bytes: nothing,
        page_bytes: nothing,
        row_bytes: nothing,
    }];
    case.pins.tree_budget = Some(16);
    of(&mut case).budgets = vec![16];
    case
}

#[test]
fn a_target_that_drafts_for_itself_keeps_whole_layers() {
    for (share, hardware) in [(20, desktop()), (40, processor())] {
        let mut case = drafts_itself(share, hardware);
        let grown = plan(&case.inputs()).unwrap();
        let (policy, near) = (&grown.policy, of(&mut case).drafts[0].home);
        assert_eq!((policy.draft, grown.memory.draft), (Some(near), Split::default()));
        assert!(policy.kv_homes.iter().all(|&home| home == near));
        // Seven matrices to a layer, and the head behind them.
        let layers = || policy.homes[..7 * 16].chunks(7).map(<[Vec<Tier>]>::concat);
        let whole: Vec<bool> = layers().map(|l| l.iter().all(|&home| home == near)).collect();
        let away = layers().filter(|layer| layer.iter().all(|&home| home != near)).count();
        let kept = whole.iter().filter(|&&whole| whole).count();
        assert!((6..16).contains(&kept) && kept + away >= 15, "{whole:?}, {away} away");
        let first = whole.iter().position(|whole| !whole).unwrap();
        assert!(
            first > 1 && whole[first..].iter().take(16 - kept).all(|whole| !whole),
            "{whole:?}"
        );
        assert_eq!(predict(&case.inputs(), policy).unwrap().seconds(), grown.seconds());
        for kv in [Some(0.5), Some(1.0)] {
            let mut pinned = drafts_itself(40, case.hardware.clone());
            pinned.pins.kv.disk = kv;
            let error = plan(&pinned.inputs()).unwrap_err().to_string();
            assert!(error.contains("the model drafts for itself"), "{error}");
        }
        let mut spilled = policy.clone();
        spilled.kv_homes[0] = Tier::Disk;
        let mut on_host = policy.clone();
        (on_host.host_attention, on_host.kv_homes) = (true, vec![Tier::Ram; 16]);
        for policy in [spilled, on_host] {
            let error = predict(&case.inputs(), &policy).unwrap_err().to_string();
            assert!(error.contains("the model itself"), "{error}");
        }
        // Fewer layers would draft faster, and worse: none goes away that need not, however fast the disk.
        let mut roomy = drafts_itself(40, case.hardware.clone());
        *roomy.budgets.on_mut(near) = 64 * GIB;
        roomy.hardware.disk.read_bytes_per_sec = 1e12;
        let all = plan(&roomy.inputs()).unwrap().policy.weights;
        assert_eq!(all.on(near), all.total());
        // Its rounds take as long as what is near is of the model; another grows a tree behind the prompt, too,
        // and reads it.
        let near = policy.weights.on(near) as f64 / case.model.weight_bytes() as f64;
        of(&mut case).drafts[0].is_target = false;
        let all = predict(&case.inputs(), policy).unwrap();
        let (own, other) = (grown.terms.draft / (grown.passes - 1.0), all.terms.draft / all.passes);
        assert!((own / other - near).abs() < 0.02, "{own} {other} {near}");
    }
}

#[test]
fn a_draft_that_does_not_fit_is_skipped_or_refused_if_it_is_pinned() {
    let mut case = medium([400 * MIB, 100 * MIB, GIB], 4);
    of(&mut case).drafts.truncate(1);
    of(&mut case).drafts[0].bytes = Split::all(Tier::Ram, 2 * GIB);
    let plain = plan(&case.inputs()).unwrap();
    assert_eq!(plain.policy.tree_budget, 0);
    case.pins.tree_budget = Some(64);
    let PlanError::DoesNotFit { missing, remedies, .. } = plan(&case.inputs()).unwrap_err() else {
        panic!("it does not fit")
    };
    assert!(missing.ram > GIB && missing.device == 0, "{missing:?}");
    assert!(remedies.contains(&Change::Unpin("draft trees")), "{remedies:?}");
    case.budgets += missing;
    assert_eq!(plan(&case.inputs()).unwrap().policy.tree_budget, 64);
    case.budgets.ram -= 1;
    assert!(plan(&case.inputs()).is_err());
    // A smaller tree helps where it is the draft's cache that does not fit.
    of(&mut case).drafts[0].bytes = Split::default();
    of(&mut case).drafts[0].page_bytes = Split::all(Tier::Ram, 80 * MIB);
    case.budgets.ram = GIB;
    let PlanError::DoesNotFit { missing, .. } = plan(&case.inputs()).unwrap_err() else {
        panic!("it does not fit")
    };
    case.budgets.ram += missing.ram - 1;
    let PlanError::DoesNotFit { remedies, .. } = plan(&case.inputs()).unwrap_err() else {
        panic!("it does not fit")
    };
    let smaller = remedies.iter().find_map(|remedy| match remedy {
        Change::TreeBudget(nodes) => Some(*nodes),
        _ => None,
    });
    case.pins.tree_budget = smaller;
    assert!(smaller.is_some_and(|nodes| (1..64).contains(&nodes)), "{remedies:?}");
    plan(&case.inputs()).expect("what was named fits");
}

#[test]
fn policies_and_pins_that_contradict_the_job_are_refused() {
    let mut case = medium([400 * MIB, 8 * GIB, 0], 1);
    let policy = plan(&case.inputs()).unwrap().policy;
    let message =
        |case: &Case, policy: &_| predict(&case.inputs(), policy).unwrap_err().to_string();
    let mut nowhere = policy.clone();
    nowhere.draft = None;
    assert!(message(&case, &nowhere).contains("where its draft"));
    nowhere.draft = Some(Tier::Disk);
    assert!(message(&case, &nowhere).contains("could live in disk space"));
    let mut streamed = policy.clone();
    streamed.homes.last_mut().unwrap()[0] = Tier::Ram;
    assert!(message(&case, &streamed).contains("output head"));
    case.pins.tree_budget = Some(8);
    case.pins.weights.ram = Some(1.0);
    assert!(plan(&case.inputs()).unwrap_err().to_string().contains("output head"));
    case.workload.speculation = None;
    assert!(message(&case, &policy).contains("nothing is known"));
    let spoiled: [fn(&mut Speculation); 6] = [
        |s| s.gain.clear(),
        |s| s.gain[1].1 = 6.0,
        |s| s.rounds.swap(0, 1),
        |s| s.nodes_max = 0,
        |s| s.drafts[0].pass_seconds.clear(),
        |s| s.drafts[0].home = Tier::Device,
    ];
    for spoil in spoiled {
        let mut case = medium([GIB, GIB, 0], 1);
        spoil(of(&mut case));
        assert!(matches!(plan(&case.inputs()), Err(PlanError::BadInput(_))));
    }
    let mut case = medium([GIB, GIB, 0], 1);
    case.hardware = processor();
    assert!(plan(&case.inputs()).unwrap_err().to_string().contains("host memory"));
}

#[test]
fn memory_is_kept_and_what_is_planned_is_predicted() {
    let mut grown = 0;
    for seed in 0..24 {
        let case = random_speculation(seed);
        let Ok(planned) = plan(&case.inputs()) else { continue };
        grown += usize::from(planned.policy.tree_budget > 0);
        let mut budgets = case.budgets;
        budgets.device = if case.hardware.shares_ram { 0 } else { budgets.device };
        let total = planned.memory.total();
        assert_eq!(total.beyond(&budgets), Split::default(), "seed {seed}: {total:?} {budgets:?}");
        let predicted = predict(&case.inputs(), &planned.policy).unwrap();
        let difference = predicted.seconds() / planned.seconds() - 1.0;
        assert!(difference.abs() < 1e-9, "seed {seed}: {difference}");
        assert_eq!(predicted.memory, planned.memory, "seed {seed}");
        assert_eq!(predicted.curve, planned.curve, "seed {seed}");
    }
    assert!(grown > 5, "{grown} cases have trees");
}

#[test]
fn more_memory_or_gain_is_never_slower_and_trees_are_no_loss() {
    for seed in 0..24 {
        let mut case = random_speculation(seed);
        let Ok(planned) = plan(&case.inputs()) else { continue };
        let fastest = |planned: &Plan| {
            let seconds = planned.by_budget.iter().map(|of| of.seconds);
            seconds.fold(f64::INFINITY, f64::min)
        };
        let seconds = fastest(&planned);
        let better = |case: &Case, what: &str| {
            let with = fastest(&plan(&case.inputs()).unwrap());
            assert!(with <= seconds * ROUNDING, "seed {seed}: {with} after {seconds}: {what}");
        };
        let budgets = case.budgets;
        for tier in Tier::ALL {
            case.budgets = budgets;
            *case.budgets.on_mut(tier) += budgets.on(tier) / 3;
            better(&case, &tier.to_string());
        }
        case.budgets = budgets;
        let raised = |&mut (nodes, ref mut gain): &mut (usize, f64)| {
            *gain = (*gain * 1.25).min(1.0 + nodes as f64);
        };
        of(&mut case).gain.iter_mut().for_each(raised);
        better(&case, "gain");
        case.workload.speculation = None;
        let without = plan(&case.inputs()).unwrap().seconds();
        assert!(
            planned.seconds() <= without * 1.0001,
            "seed {seed}: {} with trees, {without} without",
            planned.seconds()
        );
    }
}

#[test]
fn what_pinned_trees_lack_is_enough_and_no_less_is() {
    let mut refused = 0;
    for seed in 0..48 {
        let mut case = random_speculation(seed);
        let Split { device, ram, disk } = case.budgets;
        case.budgets = Split { device: device / 8, ram: ram / 6, disk: disk / 20 };
        case.pins.tree_budget = Some(4 << (seed % 8));
        let Err(error) = plan(&case.inputs()) else { continue };
        let PlanError::DoesNotFit { missing, budgets, .. } = error else { panic!("{error}") };
        refused += 1;
        case.budgets = budgets + missing;
        let enough = plan(&case.inputs());
        let policy =
            enough.unwrap_or_else(|error| panic!("seed {seed}: {missing:?}: {error}")).policy;
        assert_eq!(Some(policy.tree_budget), case.pins.tree_budget, "seed {seed}");
        for tier in Tier::ALL.into_iter().filter(|&tier| missing.on(tier) > 0) {
            *case.budgets.on_mut(tier) -= 1;
        }
        assert!(plan(&case.inputs()).is_err(), "seed {seed}: less than {missing:?} is enough");
    }
    assert!(refused > 10, "{refused} cases were refused");
}
