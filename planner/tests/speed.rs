//! How long planning takes, in a process of its own so that no other test runs beside it.

#[path = "it/fixture.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod fixture;

use fixture::{Case, GIB, desktop, llama_70b, speculation, workload};
use forebay_planner::{Plan, Tier, plan};
use std::time::Instant;

/// Processor seconds of this thread, so that other work on the machine does not count; wall time
/// where the system does not tell.
fn seconds(start: Instant) -> f64 {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = told.and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok());
    nanos.map_or_else(|| start.elapsed().as_secs_f64(), |nanos| nanos * 1e-9)
}

fn case() -> Case {
    let job = workload(&[(512, 128, 1000), (2000, 300, 100), (100, 32, 900)]);
    let mut case = Case::new(llama_70b(), desktop(), job, [12 * GIB, 32 * GIB, 100 * GIB]);
    case.formats.push("q4".into());
    case
}

/// The plan of a case, and whether it took no longer than `most` seconds.
fn planned(case: &Case, most: f64) -> Plan {
    let start = Instant::now();
    let before = seconds(start);
    let plan = plan(&case.inputs()).unwrap();
    let took = seconds(start) - before;
    eprintln!("planned in {took:.2} s: {:.0} s of passes, {:?}", plan.seconds(), plan.bottleneck);
    assert!(took < most, "{took} s");
    plan
}

#[test]
fn a_70b_model_is_planned_in_two_seconds() {
    let plan = planned(&case(), 2.0);
    assert_eq!(plan.binding, [Tier::Device, Tier::Ram]);
    assert!(plan.policy.weights.device > 9 * GIB && plan.policy.weights.ram > 20 * GIB);
}

#[test]
fn with_draft_trees_it_takes_three_times_as_long_at_most() {
    let mut many = case();
    many.workload.speculation = Some(speculation(GIB, 0.1, false));
    planned(&many, 6.0);
    // A few requests leave rows free.
    let mut few = case();
    few.workload = workload(&[(512, 128, 4)]);
    few.workload.speculation = many.workload.speculation.clone();
    let plan = planned(&few, 6.0);
    assert!(plan.policy.tree_budget >= 64, "{:?}", plan.by_budget);
}
