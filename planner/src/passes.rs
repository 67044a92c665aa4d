//! The passes of a job: how the engine composes them, counted instead of run.
//!
//! Every decoding sequence brings its rows to every pass; prompts fill the chunk, oldest first; a new
//! sequence enters when the chunk has room and the batch has too. Which passes that gives depends on
//! lengths alone, not on time, so one count serves every placement.

use crate::shape::ModelShape;
use crate::workload::Workload;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

/// Sizes that decide which passes there are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Composition {
    pub(crate) batch: usize,
    pub(crate) prefill_chunk: usize,
    pub(crate) rows_per_sequence: usize,
    /// Tokens that a decoding sequence gains by a pass.
    pub(crate) gain: f64,
}

/// Passes of about the same composition; all but `count` are sums over them until [`mean`](Pass::mean).
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pass {
    pub(crate) count: f64,
    pub(crate) decode_rows: f64,
    pub(crate) prompt_rows: f64,
    /// Rows that want logits.
    pub(crate) outputs: f64,
    /// Tokens generated.
    pub(crate) tokens: f64,
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

    fn add(&mut self, other: &Pass) {
        self.count += other.count;
        self.decode_rows += other.decode_rows;
        self.prompt_rows += other.prompt_rows;
        self.outputs += other.outputs;
        self.tokens += other.tokens;
        self.pages_read += other.pages_read;
        self.pages_written += other.pages_written;
        self.seen.resize(other.seen.len(), 0.0);
        self.seen.iter_mut().zip(&other.seen).for_each(|(sum, seen)| *sum += seen);
    }

    /// Everything but the count, times `factor`.
    fn scale(&mut self, factor: f64) {
        self.decode_rows *= factor;
        self.prompt_rows *= factor;
        self.outputs *= factor;
        self.tokens *= factor;
        self.pages_read *= factor;
        self.pages_written *= factor;
        self.seen.iter_mut().for_each(|seen| *seen *= factor);
    }

    fn mean(mut self) -> Pass {
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

/// Requests looked at per sequence of the batch; of longer files the steady middle is stretched.
const SAMPLE_PER_SEQUENCE: usize = 4;
const SAMPLE_MIN: usize = 256;

/// Counts the passes of a job. `windows` are the distinct attention windows of the model.
pub(crate) fn compose(
    workload: &Workload,
    model: &ModelShape,
    composition: Composition,
    windows: &[usize],
) -> Job {
    let sample = workload.sample(SAMPLE_PER_SEQUENCE * composition.batch + SAMPLE_MIN);
    let sampled = sample.len();
    let mut composer = Composer {
        composition,
        windows,
        page: model.page_positions as f64,
        queue: sample.into(),
        prompts: VecDeque::new(),
        ends: BinaryHeap::new(),
        now: 0,
        cached: 0.0,
        steady: false,
        sums: BTreeMap::new(),
        pages_peak: 0.0,
    };
    while composer.busy() {
        composer.step();
    }
    let longest = model.pages(workload.longest());
    // Lengths are estimates: a sixteenth more, unless that is more than the batch can ever have.
    let peak = (composer.pages_peak * 17.0 / 16.0).ceil() as usize;
    let pages = peak.min(composition.batch.saturating_mul(longest)).max(longest);
    let stretch = stretch(workload, sampled, &composer.sums);
    let mut passes = BTreeMap::<_, Pass>::new();
    for ((steady, decode, prompt), mut sum) in composer.sums {
        if steady || stretch.everything {
            sum.scale(stretch.factor);
            sum.count *= stretch.factor;
        }
        passes.entry((decode, prompt)).or_default().add(&sum);
    }
    Job { passes: passes.into_values().map(Pass::mean).collect(), pages }
}

/// By how much the sample's passes are repeated in the whole file.
struct Stretch {
    factor: f64,
    /// Whether start and end are repeated too, as there is no middle.
    everything: bool,
}

fn stretch(workload: &Workload, sampled: usize, sums: &BTreeMap<Key, Pass>) -> Stretch {
    if sampled == workload.count() {
        return Stretch { factor: 1.0, everything: false };
    }
    let (prompt, output) = workload.tokens();
    let work = |steady: bool| -> f64 {
        let of_kind = sums.iter().filter(|(key, _)| key.0 == steady);
        of_kind.map(|(_, sum)| sum.tokens + sum.prompt_rows).sum()
    };
    let (whole, middle, ends) = ((prompt + output) as f64, work(true), work(false));
    let everything = middle <= 0.0;
    let factor = if everything { whole / ends } else { (whole - ends) / middle };
    Stretch { factor: factor.max(1.0), everything }
}

/// Steady or not, and the classes of decoding and prompt rows.
type Key = (bool, u32, u32);

/// Class of a number of rows: two to an octave.
fn class(rows: f64) -> u32 {
    let rows = rows as u64;
    (rows * rows).checked_ilog2().map_or(0, |class| 1 + class)
}

/// Sum of min(i + 1, window) for positions i from `start` to `end`.
fn seen_by(start: usize, end: usize, window: usize) -> f64 {
    let triangle = |n: usize| n as f64 * (n as f64 + 1.0) / 2.0;
    let ramp = |n: usize| triangle(n.min(window)) + n.saturating_sub(window) as f64 * window as f64;
    ramp(end) - ramp(start)
}

struct Prompt {
    done: usize,
    prompt: usize,
    output: usize,
}

/// The engine's composition of passes, without the passes.
struct Composer<'a> {
    composition: Composition,
    windows: &'a [usize],
    page: f64,
    queue: VecDeque<(usize, usize)>,
    /// Sequences whose prompts are not through, oldest first.
    prompts: VecDeque<Prompt>,
    /// Decoding sequences: the pass after which each ends, and the bits of its positions then.
    ends: BinaryHeap<Reverse<(u64, u64)>>,
    /// Passes so far.
    now: u64,
    /// Positions of all decoding sequences.
    cached: f64,
    /// Whether a sequence has ended while others still wait.
    steady: bool,
    sums: BTreeMap<Key, Pass>,
    pages_peak: f64,
}

impl Composer<'_> {
    fn busy(&self) -> bool {
        !(self.queue.is_empty() && self.prompts.is_empty() && self.ends.is_empty())
    }

    /// One pass with prompt rows, or all passes without up to the next end.
    fn step(&mut self) {
        let steady = self.steady && !self.queue.is_empty();
        let mut pass = Pass { seen: vec![0.0; self.windows.len()], ..Pass::default() };
        let joining = self.prefill(&mut pass);
        let next = self.ends.peek().map(|&Reverse((end, _))| end - self.now);
        let count = if pass.prompt_rows > 0.0 { 1 } else { next.unwrap_or(1) };
        self.decode(count, &mut pass);
        self.measure(&joining);
        self.now += count;
        self.retire();
        joining.into_iter().for_each(|(prompt, output)| self.join(prompt, output));
        let key = (steady, class(pass.decode_rows / pass.count), class(pass.prompt_rows));
        self.sums.entry(key).or_default().add(&pass);
    }

    /// Fills the chunk; returns (prompt, output) of the prompts that are through.
    fn prefill(&mut self, pass: &mut Pass) -> Vec<(usize, usize)> {
        let (mut left, mut joining) = (self.composition.prefill_chunk, Vec::new());
        let mut index = 0;
        while left > 0 {
            if index == self.prompts.len() {
                let active = self.ends.len() + self.prompts.len() + joining.len();
                let room = active < self.composition.batch;
                let Some((prompt, output)) = self.queue.pop_front_if(|_| room) else { break };
                self.prompts.push_back(Prompt { done: 0, prompt, output });
            }
            let page = self.page;
            let sequence = &mut self.prompts[index];
            let (start, end) = (sequence.done, sequence.prompt.min(sequence.done + left));
            for (sum, &window) in pass.seen.iter_mut().zip(self.windows) {
                *sum += seen_by(start, end, window);
            }
            pass.prompt_rows += (end - start) as f64;
            pass.pages_read += (start as f64 / page).ceil();
            pass.pages_written += (end as f64 / page).ceil() - (start as f64 / page).floor();
            left -= end - start;
            sequence.done = end;
            if end < sequence.prompt {
                index += 1;
                continue;
            }
            let sequence = self.prompts.remove(index).expect("it was just looked at");
            joining.push((sequence.prompt, sequence.output));
            pass.outputs += 1.0;
            pass.tokens += 1.0;
        }
        joining
    }

    /// Adds `count` passes of every decoding sequence.
    fn decode(&mut self, count: u64, pass: &mut Pass) {
        let (sequences, passes) = (self.ends.len() as f64, count as f64);
        let Composition { rows_per_sequence, gain, .. } = self.composition;
        let rows = sequences * rows_per_sequence as f64;
        let cached = self.cached + sequences * gain * (passes - 1.0) / 2.0;
        self.cached += sequences * gain * passes;
        pass.count = passes;
        pass.decode_rows += rows * passes;
        pass.outputs += rows * passes;
        pass.tokens += sequences * gain * passes;
        if sequences > 0.0 {
            let length = cached / sequences + 1.0;
            for (sum, &window) in pass.seen.iter_mut().zip(self.windows) {
                *sum += passes * rows * length.min(window as f64);
            }
            pass.pages_read += passes * (cached / self.page + 0.5 * sequences);
            let straddled = (rows_per_sequence as f64 - 1.0) / self.page;
            pass.pages_written += passes * sequences * (1.0 + straddled);
        }
    }

    /// Notes how many pages are taken, at most, at the end of a pass.
    fn measure(&mut self, joining: &[(usize, usize)]) {
        let rounded = |positions: usize| (positions as f64 / self.page).ceil();
        let decoding = self.ends.len() as f64;
        let prompts: f64 = self.prompts.iter().map(|p| rounded(p.done)).sum();
        let through: f64 = joining.iter().map(|&(prompt, _)| rounded(prompt)).sum();
        let draft = (self.composition.rows_per_sequence - 1) as f64;
        let slack = decoding * (self.page - 1.0 + draft) / self.page;
        let taken = self.cached / self.page + slack + prompts + through;
        self.pages_peak = self.pages_peak.max(taken);
    }

    fn retire(&mut self) {
        while let Some(&Reverse((end, positions))) = self.ends.peek()
            && end <= self.now
        {
            self.ends.pop();
            self.cached -= f64::from_bits(positions);
            self.steady = true;
        }
        if self.ends.is_empty() {
            self.cached = 0.0;
        }
    }

    /// A prompt is through and has its first token; the rest is decoded from the next pass on.
    fn join(&mut self, prompt: usize, output: usize) {
        let passes = ((output - 1) as f64 / self.composition.gain).ceil() as u64;
        if passes == 0 {
            self.steady = true;
            return;
        }
        let positions = prompt as f64 + passes as f64 * self.composition.gain;
        self.cached += prompt as f64;
        self.ends.push(Reverse((self.now + passes, positions.to_bits())));
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
    use crate::workload::Requests;

    fn model() -> ModelShape {
        ModelShape { page_positions: 16, ..ModelShape::default() }
    }

    fn job(requests: &[(usize, usize, usize)], batch: usize, prefill_chunk: usize) -> Job {
        let requests =
            requests.iter().map(|&(prompt, output, count)| Requests { prompt, output, count });
        let workload = Workload { requests: requests.collect(), ..Workload::default() };
        let composition = Composition { batch, prefill_chunk, rows_per_sequence: 1, gain: 1.0 };
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
    fn speculation_takes_fewer_passes_of_more_rows() {
        let requests = vec![Requests { prompt: 4, output: 31, count: 1 }];
        let workload = Workload { requests, ..Workload::default() };
        let composition =
            Composition { batch: 1, prefill_chunk: 4, rows_per_sequence: 8, gain: 3.0 };
        let job = compose(&workload, &model(), composition, &[usize::MAX]);
        assert_eq!((total(&job, |_| 1.0), total(&job, |p| p.decode_rows)), (11.0, 80.0));
        assert_eq!(total(&job, |p| p.tokens), 31.0);
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
