//! Plans as one would expect them.

use crate::fixture::{Case, GIB, MIB, desktop, llama, processor, workload};
use forebay_planner::{PinnedSplit, PlanError, Resource, Tier, plan, predict};

fn medium(budgets: [u64; 3]) -> Case {
    Case::new(
        llama(16, 2048, 32, 8, 8192, 32_000),
        desktop(),
        workload(&[(200, 100, 500)]),
        budgets,
    )
}

#[test]
fn what_fits_is_resident_and_bound_by_the_device() {
    let plan = plan(&medium([8 * GIB, 4 * GIB, 0]).inputs()).unwrap();
    assert_eq!((plan.policy.weights.ram, plan.policy.weights.disk), (0, 0));
    assert_eq!(plan.policy.ring.device, 0);
    assert!(plan.policy.kv_homes.iter().all(|&home| home == Tier::Device));
    assert_eq!((plan.bottleneck, plan.binding.len()), (Resource::Device, 0));
    // Nothing is hidden in the sum: it is the device's time.
    assert!((plan.seconds() / plan.terms.compute() - 1.0).abs() < 0.02, "{:?}", plan.terms);
}

#[test]
fn streaming_makes_the_batch_large() {
    let batch = |device: u64| plan(&medium([device, 8 * GIB, 0]).inputs()).unwrap().policy.batch;
    assert!(batch(300 * MIB) >= 48, "{}", batch(300 * MIB));
}

#[test]
fn a_disk_bound_job_takes_the_bytes_by_the_rate() {
    let mut case = medium([0, 300 * MIB, 0]);
    case.hardware = processor();
    case.hardware.disk.read_bytes_per_sec = 50e6;
    case.pins.batch = Some(8);
    let plan = plan(&case.inputs()).unwrap();
    assert_eq!(plan.bottleneck, Resource::Disk);
    let expected = plan.policy.weights.disk as f64 * plan.passes / 50e6;
    assert!((plan.terms.disk_read / expected - 1.0).abs() < 1e-6);
    assert!(plan.seconds() < 1.1 * expected, "{} for {expected}", plan.seconds());
    // Streamed segments are spread over the whole pass.
    let layers = &plan.policy.homes[..plan.policy.homes.len() - 1];
    let share = |homes: &[Vec<Tier>]| {
        let homes = homes.iter().flatten();
        homes.clone().filter(|&&home| home == Tier::Disk).count() as f64 / homes.count() as f64
    };
    let shares: Vec<f64> = layers.chunks(14).map(share).collect();
    let (least, most) = shares.iter().fold((1.0f64, 0.0f64), |(l, m), &s| (l.min(s), m.max(s)));
    assert!(most - least < 0.15, "{shares:?}");
}

#[test]
fn long_caches_leave_the_device_and_are_attended_to_where_it_is_cheaper() {
    let mut case = medium([600 * MIB, 64 * GIB, 0]);
    case.workload = workload(&[(4000, 400, 200)]);
    let attended_on_host = |case: &Case| {
        let plan = plan(&case.inputs()).unwrap();
        assert!(plan.policy.kv.ram > plan.policy.kv.device, "{:?}", plan.policy.kv);
        let all_in_ram = plan.policy.kv_homes.iter().all(|&home| home == Tier::Ram);
        assert!(all_in_ram || !plan.policy.host_attention);
        plan.policy.host_attention
    };
    // A slow link makes the host attend, a slow host makes the pages travel.
    case.hardware.upload_bytes_per_sec = 2e9;
    case.hardware.host.attention.iter_mut().for_each(|a| a.kv_element_seconds = 2.0 / 80e9);
    case.hardware.host.attention.iter_mut().for_each(|a| a.product_seconds = 0.0);
    assert!(attended_on_host(&case));
    case.hardware.upload_bytes_per_sec = 25e9;
    case.hardware.host.attention.iter_mut().for_each(|a| a.kv_element_seconds = 2.0 / 2e9);
    assert!(!attended_on_host(&case));
}

#[test]
fn what_attends_can_be_pinned() {
    let mut case = medium([8 * GIB, 4 * GIB, 4 * GIB]);
    case.pins.host_attention = Some(true);
    let on_host = plan(&case.inputs()).unwrap();
    assert!(on_host.policy.host_attention && on_host.terms.host > 0.0);
    assert!(on_host.policy.kv_homes.iter().all(|&home| home == Tier::Ram));
    assert_eq!(predict(&case.inputs(), &on_host.policy).unwrap().seconds(), on_host.seconds());
    // The cache has no other place.
    case.pins.kv.disk = Some(0.5);
    let refused = plan(&case.inputs()).unwrap_err();
    assert!(matches!(&refused, PlanError::BadInput(why) if why.contains("RAM")), "{refused}");
    case.pins.kv.disk = None;
    case.budgets.ram = 66 * MIB;
    assert!(
        matches!(plan(&case.inputs()), Err(PlanError::DoesNotFit { missing, .. }) if missing.ram > 0)
    );
    case.pins.host_attention = Some(false);
    let on_device = plan(&case.inputs()).unwrap();
    assert!(!on_device.policy.host_attention && on_device.terms.host == 0.0);
    let mut mixed = on_host.policy.clone();
    mixed.kv_homes[0] = Tier::Device;
    assert!(matches!(predict(&case.inputs(), &mixed), Err(PlanError::BadInput(_))));
}

#[test]
fn a_compressed_cache_is_taken_where_memory_is_short() {
    let mut case = medium([700 * MIB, 512 * MIB, 0]);
    case.workload = workload(&[(1500, 400, 200)]);
    let plain = plan(&case.inputs()).unwrap();
    case.formats.push("q4".into());
    let either = plan(&case.inputs()).unwrap();
    assert_eq!(either.policy.kv_format, "q4");
    assert!(either.seconds() < 0.9 * plain.seconds(), "{} {}", either.seconds(), plain.seconds());
}

#[test]
fn pins_are_kept() {
    let mut case = medium([GIB, 8 * GIB, 8 * GIB]);
    case.pins.weights = PinnedSplit { device: Some(0.2), ram: Some(0.5), disk: None };
    case.pins.kv.ram = Some(1.0);
    case.pins.batch = Some(24);
    case.pins.prefill_chunk = Some(100);
    case.pins.micro_batch = Some(40);
    case.pins.host_attention = Some(true);
    let plan = plan(&case.inputs()).unwrap();
    let policy = &plan.policy;
    let whole = case.model.weight_bytes() as f64;
    let slack = 4.0 * case.model.largest_segment() as f64 / whole;
    assert!((policy.weights.device as f64 / whole - 0.2).abs() <= slack, "{:?}", policy.weights);
    assert!((policy.weights.ram as f64 / whole - 0.5).abs() <= slack, "{:?}", policy.weights);
    assert!(policy.kv_homes.iter().all(|&home| home == Tier::Ram));
    assert_eq!((policy.batch, policy.prefill_chunk, policy.micro_batch), (24, 100, 40));
    assert!(policy.host_attention);
    // The free choice is at least as good.
    case.pins = Default::default();
    assert!(forebay_planner::plan(&case.inputs()).unwrap().seconds() <= plan.seconds() * 1.001);
}

#[test]
fn the_choice_beats_policies_around_it() {
    let mut case = medium([500 * MIB, 900 * MIB, 4 * GIB]);
    let best = plan(&case.inputs()).unwrap();
    let sizes = (best.policy.batch, best.policy.prefill_chunk);
    for (batch, chunk) in [(1, 1), (2, 1), (1, 2)] {
        for smaller in [false, true] {
            let scaled =
                |size: usize, by: usize| if smaller { (size / by).max(1) } else { size * by };
            case.pins.batch = Some(scaled(sizes.0, batch));
            case.pins.prefill_chunk = Some(scaled(sizes.1, chunk));
            match plan(&case.inputs()) {
                Ok(other) => assert!(other.seconds() >= best.seconds() * 0.99, "{:?}", case.pins),
                Err(error) => assert!(matches!(error, PlanError::DoesNotFit { .. }), "{error}"),
            }
        }
    }
}

#[test]
fn a_policy_of_another_model_is_refused() {
    let case = medium([8 * GIB, 4 * GIB, 0]);
    let policy = plan(&case.inputs()).unwrap().policy;
    let other = Case::new(llama(8, 2048, 32, 8, 8192, 32_000), desktop(), case.workload, [GIB; 3]);
    let error = predict(&other.inputs(), &policy).unwrap_err();
    assert!(error.to_string().contains("another model"), "{error}");
}
