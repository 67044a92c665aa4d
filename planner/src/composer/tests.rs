//! Passes with draft trees against a simulation of every sequence.

use super::*;
use crate::fixture::{Random, speculation, workload};

fn model() -> ModelShape {
    ModelShape { page_positions: 16, ..ModelShape::default() }
}

fn total(job: &Job, of: fn(&Pass) -> f64) -> f64 {
    job.passes.iter().map(|pass| pass.count * of(pass)).sum()
}

/// A job counted sequence by sequence and pass by pass.
#[derive(Default)]
struct Simulated {
    passes: f64,
    decode_rows: f64,
    sequences: f64,
    tokens: f64,
    outputs: f64,
    draft: f64,
}

fn simulate(job: &Workload, composition: Composition) -> Simulated {
    let speculation = job.speculation.as_ref().unwrap();
    let mut queue: VecDeque<(usize, usize)> = job.sample(usize::MAX / 4).into();
    let mut prompts: VecDeque<(usize, usize)> = VecDeque::new();
    // Tokens that each sequence has yet to gain.
    let mut left: Vec<f64> = Vec::new();
    let mut sums = Simulated::default();
    while !(queue.is_empty() && prompts.is_empty() && left.is_empty()) {
        let (mut chunk, mut joining, mut at) = (composition.prefill_chunk, Vec::new(), 0);
        let mut prompt_rows = 0;
        while chunk > 0 {
            if at == prompts.len() {
                let active = left.len() + prompts.len() + joining.len();
                if active >= composition.batch || queue.is_empty() {
                    break;
                }
                prompts.extend(queue.pop_front());
            }
            let rows = chunk.min(prompts[at].0);
            (chunk, prompt_rows) = (chunk - rows, prompt_rows + rows);
            prompts[at].0 -= rows;
            if prompts[at].0 > 0 {
                at += 1;
            } else {
                joining.extend(prompts.remove(at));
            }
        }
        // A tree grows behind a prompt from which more than one token is to come.
        let (growing, joining): (Vec<_>, Vec<_>) = joining.into_iter().partition(|r| r.1 > 1);
        prompt_rows -= growing.len();
        left.extend(growing.iter().map(|&(_, output)| output as f64));
        let sequences = left.len() as f64;
        let nodes = speculation.nodes(composition.tree_budget, sequences);
        let gain = speculation.gain(nodes);
        sums.passes += 1.0;
        sums.sequences += sequences;
        sums.decode_rows += sequences * (1.0 + nodes);
        sums.outputs += joining.len() as f64 + sequences * gain * speculation.outputs;
        let draft = &speculation.drafts[0];
        sums.draft += speculation.tree_seconds(draft, sequences, nodes);
        sums.draft += draft.prompt_seconds(prompt_rows as f64, composition.batch);
        for tokens in &mut left {
            sums.tokens += gain.min(*tokens);
            *tokens -= gain;
        }
        left.retain(|&tokens| tokens > 1e-6);
        sums.tokens += joining.len() as f64;
    }
    sums
}

#[test]
fn passes_with_trees_are_those_of_a_simulation() {
    let mut random = Random::new(3);
    for seed in 0..60 {
        let mut requests = Vec::new();
        for _ in 0..1 + random.below(3) {
            requests.push((1 + random.below(90), 1 + random.below(120), 1 + random.below(12)));
        }
        let mut job = workload(&requests);
        job.speculation = Some(speculation(0, 1e-3, false));
        let composition = Composition {
            batch: 1 + random.below(12),
            prefill_chunk: 1 + random.below(64),
            tree_budget: 1 << random.below(10),
        };
        let counted = compose(&job, &model(), composition, &[usize::MAX]);
        let simulated = simulate(&job, composition);
        for (what, counted, simulated) in [
            ("passes", total(&counted, |_| 1.0), simulated.passes),
            ("rows", total(&counted, |p| p.decode_rows), simulated.decode_rows),
            ("sequences", total(&counted, |p| p.sequences), simulated.sequences),
            ("tokens", total(&counted, Pass::tokens), simulated.tokens),
            ("outputs", total(&counted, |p| p.outputs), simulated.outputs),
            ("draft", total(&counted, |p| p.draft[0]), simulated.draft),
        ] {
            let close = (counted - simulated).abs() <= 1e-6 * simulated.abs();
            assert!(close, "seed {seed}: {counted} {what} for {simulated}");
        }
        assert_eq!(simulated.tokens.round() as usize, job.tokens().1, "seed {seed}");
    }
}

/// However short prompts are, whose last rows are decoding ones.
#[test]
fn a_long_file_with_trees_is_a_short_one_stretched() {
    let passes = |count: usize| {
        let mut job = workload(&[(6, 12, count)]);
        job.speculation = Some(speculation(0, 1e-3, false));
        let composition = Composition { batch: 4, prefill_chunk: 32, tree_budget: 16 };
        total(&compose(&job, &model(), composition, &[usize::MAX]), |_| 1.0)
    };
    let (short, long) = (passes(272), passes(27_200));
    assert!((long / short / 100.0 - 1.0).abs() < 0.02, "{short} {long}");
}

#[test]
fn trees_grow_as_the_file_drains() {
    let mut job = workload(&[(10, 60, 16), (10, 600, 1)]);
    job.speculation = Some(speculation(0, 1e-3, false));
    let composition = Composition { batch: 17, prefill_chunk: 256, tree_budget: 64 };
    let counted = compose(&job, &model(), composition, &[usize::MAX]);
    let nodes = |pass: &Pass| pass.decode_rows / pass.sequences - 1.0;
    let with = |sequences: f64| {
        counted.passes.iter().find(|p| p.prompt_rows == 0.0 && p.sequences == sequences).unwrap()
    };
    assert!((nodes(with(17.0)) - 64.0 / 17.0).abs() < 1e-9);
    assert!((nodes(with(1.0)) - 64.0).abs() < 1e-9);
    let gain = |pass: &Pass| pass.gained / pass.sequences;
    assert!(gain(with(1.0)) > 1.5 * gain(with(17.0)));
}

#[test]
fn a_steady_gain_takes_so_many_times_fewer_passes() {
    let mut job = workload(&[(4, 31, 1)]);
    let gain = vec![(0, 1.0), (7, 3.0)];
    job.speculation = Some(Speculation { gain, nodes_max: 7, outputs: 1.0, ..Default::default() });
    let composition = Composition { batch: 1, prefill_chunk: 4, tree_budget: 7 };
    let counted = compose(&job, &model(), composition, &[usize::MAX]);
    assert_eq!((total(&counted, |_| 1.0), total(&counted, |p| p.decode_rows)), (11.0, 88.0));
    assert!((total(&counted, Pass::tokens) - 31.0).abs() < 1e-9);
    // 34 positions and a tree's 7 rows.
    assert_eq!(counted.pages, 3);
    let off = Composition { tree_budget: 0, ..composition };
    assert_eq!(total(&compose(&job, &model(), off, &[usize::MAX]), |_| 1.0), 31.0);
}
