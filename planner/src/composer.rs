//! How the engine composes passes.
//!
//! Every decoding sequence brings its row and its tree's to every pass; prompts fill the chunk, oldest
//! first, and have a tree behind their last row; a new sequence enters when the chunk has room and the batch
//! has too. Which passes that gives depends on lengths and gains alone, not on time, so one count serves
//! every placement.

use crate::passes::{Composition, Job, Pass};
use crate::shape::ModelShape;
use crate::speculation::Speculation;
use crate::workload::Workload;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

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
    let exact: usize = sample.iter().map(|(prompt, output)| prompt + output).sum();
    let speculates = composition.tree_budget > 0;
    let mut composer = Composer {
        composition,
        speculation: workload.speculation.as_ref().filter(|_| speculates),
        grows_at_once: speculates && workload.target_draft().is_none(),
        windows,
        page: model.page_positions as f64,
        queue: sample.into(),
        prompts: VecDeque::new(),
        ends: BinaryHeap::new(),
        now: 0.0,
        cached: 0.0,
        steady: false,
        sums: BTreeMap::new(),
        pages_peak: 0.0,
    };
    while composer.busy() {
        composer.step();
    }
    let pages = pages(workload, model, composition, composer.pages_peak);
    let stretch = stretch(workload, (sampled, exact), &composer.sums);
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

/// Pages for a peak that was counted: enough for the longest sequence.
fn pages(workload: &Workload, model: &ModelShape, composition: Composition, peak: f64) -> usize {
    let Composition { batch, tree_budget, .. } = composition;
    let longest = model.pages(workload.longest_with_tree(tree_budget));
    // Lengths are estimates: a sixteenth more, unless that is more than the batch can ever have.
    let peak = (peak * 17.0 / 16.0).ceil() as usize;
    let pages = peak.min(batch.saturating_mul(longest)).max(longest);
    workload.with_spare_pages(pages, tree_budget, model.page_positions)
}

/// By how much the sample's passes are repeated in the whole file.
struct Stretch {
    factor: f64,
    /// Whether start and end are repeated too, as there is no middle.
    everything: bool,
}

/// `exact`: prompt and output tokens of the sample. A row that ends a prompt and decodes is counted once only.
fn stretch(
    workload: &Workload,
    (sampled, exact): (usize, usize),
    sums: &BTreeMap<Key, Pass>,
) -> Stretch {
    if sampled == workload.count() {
        return Stretch { factor: 1.0, everything: false };
    }
    let (prompt, output) = workload.tokens();
    let work = |steady: bool| -> f64 {
        let of_kind = sums.iter().filter(|(key, _)| key.0 == steady);
        of_kind.map(|(_, sum)| sum.tokens() + sum.prompt_rows).sum()
    };
    let (whole, middle, ends) = ((prompt + output) as f64, work(true), work(false));
    let scale = exact as f64 / (middle + ends);
    let (middle, ends) = (middle * scale, ends * scale);
    let everything = middle <= 0.0;
    let factor = if everything { whole / ends } else { (whole - ends) / middle };
    Stretch { factor: factor.max(1.0), everything }
}

/// Steady or not, and the classes of decoding sequences and prompt rows.
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

/// A decoding sequence's tree, on average.
#[derive(Clone, Copy)]
struct Tree {
    nodes: f64,
    /// Tokens that the sequence gains by a pass.
    gain: f64,
}

/// When a decoding sequence ends, and its positions less the time then; as bits, which order times.
type End = Reverse<(u64, u64)>;

/// Rounding of sums of gains, tokens.
const SLIGHT: f64 = 1e-6;

/// The engine's composition of passes, without the passes.
struct Composer<'a> {
    composition: Composition,
    /// Known where trees are grown.
    speculation: Option<&'a Speculation>,
    /// Whether a prompt's last row has a tree behind it. A target that drafts for itself has to have computed
    /// the prompt before.
    grows_at_once: bool,
    windows: &'a [usize],
    page: f64,
    queue: VecDeque<(usize, usize)>,
    /// Sequences whose prompts are not through, oldest first.
    prompts: VecDeque<Prompt>,
    ends: BinaryHeap<End>,
    /// Tokens that a sequence would have gained if it had decoded from the start: all that decode
    /// advance alike, however much that is in a pass.
    now: f64,
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
        let drafts = self.speculation.map_or(0, |s| s.drafts.len());
        let (seen, draft) = (vec![0.0; self.windows.len()], vec![0.0; drafts]);
        let mut pass = Pass { seen, draft, ..Pass::default() };
        let [growing, joining] = self.prefill(&mut pass);
        growing.iter().for_each(|&request| self.join(request, 0));
        let tree = self.tree();
        let prompts = pass.prompt_rows > 0.0 || !growing.is_empty();
        let next = self.ends.peek().map(|&Reverse((end, _))| f64::from_bits(end) - self.now);
        let passes = next.map_or(1.0, |left| ((left - SLIGHT) / tree.gain).ceil().max(1.0));
        pass.count = if prompts { 1.0 } else { passes };
        self.decode(tree, &mut pass);
        self.draft(tree, &mut pass);
        self.measure(tree, &joining);
        self.now += tree.gain * pass.count;
        self.retire(&mut pass);
        joining.into_iter().for_each(|request| self.join(request, 1));
        let key = (steady, class(pass.sequences / pass.count), class(pass.prompt_rows));
        self.sums.entry(key).or_default().add(&pass);
    }

    /// The budget is shared by all sequences that decode: fewer have larger trees.
    fn tree(&self) -> Tree {
        let Some(speculation) = self.speculation else { return Tree { nodes: 0.0, gain: 1.0 } };
        let nodes = speculation.nodes(self.composition.tree_budget, self.ends.len() as f64);
        Tree { nodes, gain: speculation.gain(nodes) }
    }

    /// Fills the chunk; returns (prompt, output) of the prompts that are through: of those that decode with a
    /// tree in this pass, and of the others.
    fn prefill(&mut self, pass: &mut Pass) -> [Vec<(usize, usize)>; 2] {
        let (mut left, mut through) = (self.composition.prefill_chunk, [Vec::new(), Vec::new()]);
        let mut index = 0;
        while left > 0 {
            if index == self.prompts.len() {
                let joining: usize = through.iter().map(Vec::len).sum();
                let active = self.ends.len() + self.prompts.len() + joining;
                let room = active < self.composition.batch;
                let Some((prompt, output)) = self.queue.pop_front_if(|_| room) else { break };
                self.prompts.push_back(Prompt { done: 0, prompt, output });
            }
            let page = self.page;
            let Prompt { done: start, prompt, output } = self.prompts[index];
            let end = prompt.min(start + left);
            // The last row is a decoding one then; no tree is worth while for the first token alone.
            let grows = end == prompt && self.grows_at_once && output > 1;
            let rows_end = end - usize::from(grows);
            for (sum, &window) in pass.seen.iter_mut().zip(self.windows) {
                *sum += seen_by(start, rows_end, window);
            }
            pass.prompt_rows += (rows_end - start) as f64;
            pass.pages_read += (start as f64 / page).ceil();
            pass.pages_written += (end as f64 / page).ceil() - (start as f64 / page).floor();
            left -= end - start;
            self.prompts[index].done = end;
            if end < prompt {
                index += 1;
                continue;
            }
            self.prompts.remove(index);
            if grows {
                // As decoding it reads all that is cached and writes where it ends: both are counted.
                pass.pages_read -= (prompt - 1) as f64 / page + 0.5;
                pass.pages_written -= 1.0;
                through[0].push((prompt, output));
            } else {
                pass.outputs += 1.0;
                pass.firsts += 1.0;
                through[1].push((prompt, output));
            }
        }
        through
    }

    /// Adds every decoding sequence to all passes of the step.
    fn decode(&mut self, tree: Tree, pass: &mut Pass) {
        let (sequences, passes) = (self.ends.len() as f64, pass.count);
        let rows = sequences + sequences * tree.nodes;
        let gained = sequences * tree.gain;
        let cached = self.cached + gained * (passes - 1.0) / 2.0;
        self.cached += gained * passes;
        pass.sequences += sequences * passes;
        pass.decode_rows += rows * passes;
        let outputs = self.speculation.map_or(sequences, |s| gained * s.outputs);
        pass.outputs += outputs * passes;
        pass.gained += gained * passes;
        if sequences > 0.0 {
            let length = cached / sequences + 1.0;
            for (sum, &window) in pass.seen.iter_mut().zip(self.windows) {
                *sum += passes * rows * length.min(window as f64);
            }
            pass.pages_read += passes * (cached / self.page + 0.5 * sequences);
            pass.pages_written += passes * sequences * (1.0 + tree.nodes / self.page);
        }
    }

    /// Adds the draft's seconds, wherever it might live: trees, and prompts once.
    fn draft(&self, tree: Tree, pass: &mut Pass) {
        let Some(speculation) = self.speculation else { return };
        let sequences = self.ends.len() as f64;
        for (sum, draft) in pass.draft.iter_mut().zip(&speculation.drafts) {
            let trees = speculation.tree_seconds(draft, sequences, tree.nodes);
            let prompts = draft.prompt_seconds(pass.prompt_rows, self.composition.batch);
            *sum = pass.count * trees + prompts;
        }
    }

    /// Notes how many pages are taken, at most, at the end of a pass.
    fn measure(&mut self, tree: Tree, joining: &[(usize, usize)]) {
        let rounded = |positions: usize| (positions as f64 / self.page).ceil();
        let decoding = self.ends.len() as f64;
        let prompts: f64 = self.prompts.iter().map(|p| rounded(p.done)).sum();
        let through: f64 = joining.iter().map(|&(prompt, _)| rounded(prompt)).sum();
        let slack = decoding * (self.page - 1.0 + tree.nodes) / self.page;
        let taken = self.cached / self.page + slack + prompts + through;
        self.pages_peak = self.pages_peak.max(taken);
    }

    /// Lets sequences go that have all their tokens; what their last pass gained beyond is dropped.
    fn retire(&mut self, pass: &mut Pass) {
        while let Some(&Reverse((end, less))) = self.ends.peek()
            && f64::from_bits(end) <= self.now + SLIGHT
        {
            self.ends.pop();
            self.cached -= f64::from_bits(less) + self.now;
            pass.gained -= (self.now - f64::from_bits(end)).max(0.0);
            self.steady = true;
        }
        if self.ends.is_empty() {
            self.cached = 0.0;
        }
    }

    /// A prompt is through and has so many of its tokens, none or the first; the rest is decoded from the next
    /// step on.
    fn join(&mut self, (prompt, output): (usize, usize), done: usize) {
        if output == done {
            self.steady = true;
            return;
        }
        // The last position before the next row.
        let cached = (prompt + done) as f64 - 1.0;
        self.cached += cached;
        let end = self.now + (output - done) as f64;
        self.ends.push(Reverse((end.to_bits(), (cached - self.now).to_bits())));
    }
}

#[cfg(test)]
mod tests;
