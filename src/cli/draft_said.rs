//! What a run says of its draft trees.

use crate::generate::SpeculationStats;
use serde_json::{Value, json};

/// What a run says of its trees, for programs.
pub(super) fn summary(stats: &SpeculationStats, name: &str) -> Value {
    let [trees, sequences] = [stats.trees, stats.sequences].map(|count| count.max(1) as f64);
    json!({
        "draft": name,
        "passes": stats.passes,
        "trees": stats.trees,
        "nodes_per_tree": stats.nodes as f64 / trees,
        "height": stats.heights as f64 / trees,
        "tokens_per_pass": stats.tokens_per_pass(),
        "tokens_per_pass_expected": 1.0 + stats.expected / sequences,
        "accepted_by_depth": stats.by_depth.iter().map(|&n| n as f64 / trees).collect::<Vec<_>>(),
        "draft_seconds": stats.draft.as_secs_f64(),
        "target_seconds": stats.target.as_secs_f64(),
        "nodes_refused": stats.refused,
        "failure": stats.failure,
    })
}

/// Depths whose acceptance is said.
const DEPTHS_SAID: usize = 12;

/// The same for people, in two lines.
pub(super) fn text(stats: &SpeculationStats, name: &str) -> String {
    let [trees, sequences] = [stats.trees, stats.sequences].map(|count| count.max(1) as f64);
    let percent = |&accepted: &u64| format!("{:.0}", 100.0 * accepted as f64 / trees);
    let by_depth: Vec<String> = stats.by_depth.iter().take(DEPTHS_SAID).map(percent).collect();
    let mut text = format!(
        "  draft trees of {name}: {:.2} tokens in a pass for each sequence (the draft expected {:.2}), {:.1} \
         nodes, height {:.1}; draft {:.1} s, passes with trees {:.1} s\n  accepted at depth 1, 2, …: {} %",
        stats.tokens_per_pass(),
        1.0 + stats.expected / sequences,
        stats.nodes as f64 / trees,
        stats.heights as f64 / trees,
        stats.draft.as_secs_f64(),
        stats.target.as_secs_f64(),
        by_depth.join(" ")
    );
    if let Some(failure) = &stats.failure {
        text += &format!("\n  draft trees ended before the job did: {failure}");
    }
    text
}
