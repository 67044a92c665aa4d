//! What cannot be planned, and how it is refused.

use crate::fixture::{Case, GIB, MIB, desktop, llama, processor, workload};
use forebay_planner::{Change, Footprint, PinnedSplit, PlanError, Policy, Tier, plan, predict};

fn small(budgets: [u64; 3]) -> Case {
    let job = workload(&[(200, 100, 64)]);
    Case::new(llama(12, 1024, 16, 4, 4096, 32_000), desktop(), job, budgets)
}

fn refusal(case: &Case) -> PlanError {
    plan(&case.inputs()).expect_err("it must not fit")
}

#[test]
fn a_tier_that_is_short_is_named_with_its_bytes() {
    let error = refusal(&small([MIB, GIB, GIB]));
    let PlanError::DoesNotFit { missing, needed, budgets, remedies } = &error else {
        panic!("{error}")
    };
    assert_eq!(missing.device, needed.device - budgets.device);
    assert_eq!((missing.ram, missing.disk), (0, 0));
    assert_eq!(remedies[0], Change::Grow(Tier::Device, missing.device));
    assert!(error.to_string().starts_with("device memory is short of "), "{error}");
    let error = refusal(&small([GIB, MIB, GIB]));
    assert!(error.to_string().starts_with("RAM is short of "), "{error}");
}

#[test]
fn a_processor_is_never_short_of_device_memory() {
    let mut case = small([0, 8 * MIB, GIB]);
    case.hardware = processor();
    let error = refusal(&case);
    assert!(error.to_string().starts_with("RAM is short of "), "{error}");
}

#[test]
fn remedies_name_the_smaller_batch_the_shorter_sequence_and_the_pin() {
    let mut case = small([512 * MIB, 100 * MIB, 0]);
    case.workload.longest = 100_000;
    case.pins.batch = Some(16);
    case.pins.weights = PinnedSplit { device: Some(1.0), ..PinnedSplit::default() };
    let PlanError::DoesNotFit { remedies, .. } = refusal(&case) else { panic!("it does not fit") };
    let longest = remedies.iter().find_map(|remedy| match remedy {
        Change::Longest(positions) => Some(*positions),
        _ => None,
    });
    let longest = longest.expect("shorter sequences fit");
    assert!(longest < 100_000, "{longest}");
    case.workload.longest = longest;
    plan(&case.inputs()).expect("what was named fits");
}

#[test]
fn inputs_that_make_no_sense_are_refused_by_name() {
    let good = || small([GIB, GIB, GIB]);
    let message = |change: fn(&mut Case)| {
        let mut case = good();
        change(&mut case);
        match refusal(&case) {
            PlanError::BadInput(message) => message,
            other => panic!("{other}"),
        }
    };
    type Spoil = fn(&mut Case);
    let cases: [(Spoil, &str); 13] = [
        (|c| c.model.layers.clear(), "no layers"),
        (|c| c.model.head.segments.clear(), "no segments"),
        (|c| c.formats.clear(), "no cache format"),
        (|c| c.formats.push("q3".into()), "q3 has no bytes"),
        (|c| c.workload.requests.clear(), "no requests"),
        (|c| c.workload.requests[0].output = 0, "generates nothing"),
        (|c| c.pins.tree_budget = Some(64), "nothing is known"),
        (|c| c.pins.draft = Some(Tier::Ram), "could live in RAM"),
        (|c| c.hardware.upload_bytes_per_sec = f64::NAN, "upload rate is NaN"),
        (|c| c.hardware.disk.overlap = 1.5, "disk overlap is 1.5"),
        (|c| c.hardware.device.linear.clear(), "linear layers"),
        (|c| c.pins.batch = Some(0), "batch of 0"),
        (|c| c.pins.kv.ram = Some(1.2), "1.2 is not between"),
    ];
    for (change, expected) in cases {
        let message = message(change);
        assert!(message.contains(expected), "{message:?} does not say {expected:?}");
    }
    let mut case = good();
    case.hardware = processor();
    case.pins.weights.device = Some(0.2);
    assert!(refusal(&case).to_string().contains("none of its own"));
}

#[test]
fn no_buffer_is_larger_than_the_device_gives() {
    let mut case = small([4 * GIB, 16 * GIB, 16 * GIB]);
    let free = plan(&case.inputs()).unwrap().policy;
    let cache = |case: &Case, pages: usize| pages as u64 * case.footprint.page_bytes(0, "f16");
    let most = cache(&case, free.pages) / 3;
    case.footprint.buffer_bytes = Some(most);
    let bounded = plan(&case.inputs()).unwrap().policy;
    assert!(bounded.batch > 1, "{bounded:?}");
    assert!(bounded.ring.device <= most, "{bounded:?}");
    assert!(cache(&case, bounded.pages) <= most, "{} of {} pages", bounded.pages, free.pages);
    let error = predict(&case.inputs(), &free).unwrap_err().to_string();
    assert!(error.contains("a layer's cache takes"), "{error}");
    // Nor is it planned where there is no other place.
    case.pins.batch = Some(free.batch);
    case.pins.host_attention = Some(false);
    case.budgets.disk = 0;
    case.footprint.buffer_bytes = Some(case.footprint.page_bytes(0, "f16"));
    let error = refusal(&case).to_string();
    assert!(error.contains("a buffer of this device"), "{error}");
}

#[test]
fn a_head_that_memory_has_no_room_for_comes_in_runs() {
    let job = workload(&[(200, 100, 64)]);
    let model = llama(12, 1024, 16, 4, 4096, 128_000);
    let head = model.head.bytes();
    for hardware in [processor(), desktop()] {
        let [device, ram] = if hardware.shares_ram { [0, 64 * MIB] } else { [4 * MIB, GIB] };
        let budgets = [device + head / 2, ram + head / 2, GIB];
        let case = Case::new(model.clone(), hardware, job.clone(), budgets);
        let Policy { homes, ring, .. } = plan(&case.inputs()).expect("it streams").policy;
        let near = if case.hardware.shares_ram { Tier::Ram } else { Tier::Device };
        assert!(homes.last().unwrap().iter().any(|&home| home > near));
        assert!(ring.on(near) < head / 2, "{ring:?}");
    }
}
