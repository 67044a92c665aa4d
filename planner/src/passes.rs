//! The passes of a job, counted instead of run.

use crate::setting::Setting;

/// Sizes that decide which passes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Composition {
    pub(crate) batch: usize,
    pub(crate) prefill_chunk: usize,
    /// Nodes of draft trees in a pass, over all sequences.
    pub(crate) tree_budget: usize,
}

impl Composition {
    pub(crate) fn of(setting: &Setting) -> Composition {
        let Setting { batch, prefill_chunk, tree_budget, .. } = *setting;
        Composition { batch, prefill_chunk, tree_budget }
    }
}

/// Passes of about the same composition; all but `count` are sums over them until [`mean`](Pass::mean).
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pass {
    pub(crate) count: f64,
    /// Sequences that decode; prompts that are through and have a tree are among them.
    pub(crate) sequences: f64,
    /// Their rows, those of their trees included.
    pub(crate) decode_rows: f64,
    pub(crate) prompt_rows: f64,
    /// Rows that want logits.
    pub(crate) outputs: f64,
    /// Prompts that are through and decode from the next pass on: each has its first token.
    pub(crate) firsts: f64,
    /// Tokens that sequences gain by decoding; a first one too, where a tree grows behind a prompt.
    pub(crate) gained: f64,
    /// Seconds that the draft takes, for each place where it could live.
    pub(crate) draft: Vec<f64>,
    /// Positions that rows see, by window.
    pub(crate) seen: Vec<f64>,
    /// Cache pages that sequences of the pass have, and those that it changes; of one layer.
    pub(crate) pages_read: f64,
    pub(crate) pages_written: f64,
}

/// All passes of a job.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Job {
    /// Means over passes of about the same composition.
    pub(crate) passes: Vec<Pass>,
    /// Pages that the sequences in the cache need at once.
    pub(crate) pages: usize,
}

impl Pass {
    pub(crate) fn rows(&self) -> f64 {
        self.decode_rows + self.prompt_rows
    }

    /// Tokens generated.
    pub(crate) fn tokens(&self) -> f64 {
        self.firsts + self.gained
    }

    pub(crate) fn add(&mut self, other: &Pass) {
        self.count += other.count;
        self.sequences += other.sequences;
        self.decode_rows += other.decode_rows;
        self.prompt_rows += other.prompt_rows;
        self.outputs += other.outputs;
        self.firsts += other.firsts;
        self.gained += other.gained;
        self.pages_read += other.pages_read;
        self.pages_written += other.pages_written;
        for (sums, others) in [(&mut self.seen, &other.seen), (&mut self.draft, &other.draft)] {
            sums.resize(others.len(), 0.0);
            sums.iter_mut().zip(others).for_each(|(sum, other)| *sum += other);
        }
    }

    /// Everything but the count, times `factor`.
    pub(crate) fn scale(&mut self, factor: f64) {
        self.sequences *= factor;
        self.decode_rows *= factor;
        self.prompt_rows *= factor;
        self.outputs *= factor;
        self.firsts *= factor;
        self.gained *= factor;
        self.pages_read *= factor;
        self.pages_written *= factor;
        self.seen.iter_mut().chain(&mut self.draft).for_each(|sum| *sum *= factor);
    }

    pub(crate) fn mean(mut self) -> Pass {
        self.scale(1.0 / self.count);
        self
    }

    /// The mean over the passes of both.
    fn merged(mut self, mut other: Pass) -> Pass {
        self.scale(self.count);
        other.scale(other.count);
        self.add(&other);
        self.mean()
    }
}

/// At most `most` passes that stand for all of them: neighbours by rows are merged.
pub(crate) fn condense(passes: &[Pass], most: usize) -> Vec<Pass> {
    let mut passes = passes.to_vec();
    passes.sort_by(|a, b| a.rows().total_cmp(&b.rows()));
    while passes.len() > most {
        let cost = |pair: &[Pass]| {
            let (a, b) = (&pair[0], &pair[1]);
            let step = (b.rows() / a.rows()).ln();
            a.count * b.count / (a.count + b.count) * step * step
        };
        let costs: Vec<f64> = passes.windows(2).map(cost).collect();
        let at = (0..costs.len()).min_by(|&a, &b| costs[a].total_cmp(&costs[b]));
        let at = at.expect("more passes than one");
        let second = passes.remove(at + 1);
        let first = std::mem::take(&mut passes[at]);
        passes[at] = first.merged(second);
    }
    passes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::composer::compose;
    use crate::shape::ModelShape;
    use crate::workload::{Requests, Workload};

    fn model() -> ModelShape {
        ModelShape { page_positions: 16, ..ModelShape::default() }
    }

    fn job(requests: &[(usize, usize, usize)], batch: usize, prefill_chunk: usize) -> Job {
        let requests =
            requests.iter().map(|&(prompt, output, count)| Requests { prompt, output, count });
        let workload = Workload { requests: requests.collect(), ..Workload::default() };
        let composition = Composition { batch, prefill_chunk, tree_budget: 0 };
        compose(&workload, &model(), composition, &[usize::MAX, 4])
    }

    fn total(job: &Job, f: fn(&Pass) -> f64) -> f64 {
        job.passes.iter().map(|p| p.count * f(p)).sum()
    }

    #[test]
    fn one_sequence_is_counted_position_by_position() {
        // Chunks of 4, 4 and 2 prompt rows, then two passes for the second and third token.
        let job = job(&[(10, 3, 1)], 1, 4);
        assert_eq!(total(&job, |_| 1.0), 5.0);
        assert_eq!((total(&job, |p| p.prompt_rows), total(&job, |p| p.decode_rows)), (10.0, 2.0));
        assert_eq!(total(&job, |p| p.outputs), 3.0);
        // 1 + 2 + ... + 12 positions, and at most 4 each with a window.
        assert_eq!(total(&job, |p| p.seen[0]), 78.0);
        assert_eq!(total(&job, |p| p.seen[1]), 1.0 + 2.0 + 3.0 + 9.0 * 4.0);
        assert_eq!(job.pages, 1);
    }

    #[test]
    fn sequences_enter_as_others_leave() {
        // Two slots, four requests: the chunk lets one prompt in per pass.
        let job = job(&[(4, 3, 4)], 2, 4);
        // Prefills in passes 1, 2, 4, 5; each decodes in the two passes after its own.
        assert_eq!(total(&job, |_| 1.0), 7.0);
        assert_eq!((total(&job, |p| p.prompt_rows), total(&job, |p| p.decode_rows)), (16.0, 8.0));
    }

    #[test]
    fn a_long_file_is_a_short_one_stretched() {
        let exact = |count| {
            let job = job(&[(20, 30, count)], 8, 32);
            (total(&job, |_| 1.0), total(&job, |p| p.decode_rows), total(&job, |p| p.prompt_rows))
        };
        let (short, long) = (exact(288), exact(28_800));
        assert!((long.0 / short.0 / 100.0 - 1.0).abs() < 0.03, "{short:?} {long:?}");
        assert!((long.1 / (28_800.0 * 29.0) - 1.0).abs() < 0.02, "{long:?}");
        assert!((long.2 / (28_800.0 * 20.0) - 1.0).abs() < 0.02, "{long:?}");
    }

    #[test]
    fn condensing_keeps_the_sums() {
        let job = job(&[(20, 30, 50), (100, 5, 50)], 16, 32);
        let few = condense(&job.passes, 3);
        assert_eq!(few.len(), 3);
        let sums =
            |passes: &[Pass]| passes.iter().map(|p| p.count * (p.rows() + p.seen[0])).sum::<f64>();
        assert!((sums(&few) / sums(&job.passes) - 1.0).abs() < 1e-9);
    }
}
