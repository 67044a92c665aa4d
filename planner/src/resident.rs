//! What a model costs that is all in reach of its device: a draft.

use crate::cost::Costs;
use crate::inputs::Inputs;
use crate::passes::Pass;
use crate::round;
use crate::setting::{Head, KvMode, Setting};

/// (rows, seconds) of passes of a resident model, for each of `rows`: as many sequences of `positions`
/// positions, each of which wants its logits.
pub fn resident_passes(inputs: &Inputs<'_>, positions: usize, rows: &[usize]) -> Vec<(usize, f64)> {
    let costs = Costs::new(inputs);
    let near = round::near(inputs);
    let seconds = |&rows: &usize| {
        let setting = Setting {
            batch: rows,
            prefill_chunk: 0,
            tree_budget: 0,
            draft: None,
            micro_batch: rows,
            format: 0,
            kv_mode: KvMode::Resident,
            kv_floor: near,
            weight_floor: near,
            ring_parts: 0,
            head: Head::Stays,
        };
        let (count, seen) = (rows as f64, |&window: &usize| positions.min(window) as f64);
        let pass = Pass {
            count: 1.0,
            sequences: count,
            decode_rows: count,
            outputs: count,
            seen: costs.windows.iter().map(|window| count * seen(window)).collect(),
            pages_read: count * inputs.model.pages(positions) as f64,
            pages_written: count,
            ..Pass::default()
        };
        let attend = |kind: &crate::kind::Kind| {
            kind.layers.len() as f64 * costs.attend(kind, &setting, &pass, false)
        };
        let attention: f64 = costs.kinds.iter().map(attend).sum();
        (rows, costs.base(&setting, &pass).compute() + attention)
    };
    rows.iter().map(seconds).collect()
}
