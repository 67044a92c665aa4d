//! Plans at real sizes.

use crate::fixture::{Case, GIB, desktop, llama_70b, workload};
use forebay_planner::plan;
use std::time::Instant;

#[test]
fn a_70b_model_is_planned_in_two_seconds() {
    let job = workload(&[(512, 128, 1000), (2000, 300, 100), (100, 32, 900)]);
    let mut case = Case::new(llama_70b(), desktop(), job, [12 * GIB, 32 * GIB, 100 * GIB]);
    case.formats.push("q4".into());
    let start = Instant::now();
    let plan = plan(&case.inputs()).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    let shown = forebay_planner::Policy { homes: vec![], kv_homes: vec![], ..plan.policy.clone() };
    eprintln!("{seconds} {shown:?} {:?}", plan.policy.kv_homes);
    eprintln!(
        "{:#?}",
        forebay_planner::Plan { policy: shown.clone(), runners_up: vec![], ..plan.clone() }
    );
    for (p, s) in &plan.runners_up {
        eprintln!(
            "{s} {} {} {} {} {:?}",
            p.batch, p.micro_batch, p.prefill_chunk, p.kv_format, p.kv
        );
    }
    assert!(seconds < 2.0, "{seconds} s");
}
