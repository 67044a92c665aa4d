//! What rows cost in a decoding pass of one policy, and how many are free.

use crate::cost::{Costs, beside};
use crate::inputs::Inputs;
use crate::passes::Pass;
use crate::pipeline::Stream;
use crate::policy::Policy;
use crate::price::placement_of;
use crate::setting::{Placement, Setting};

/// Rows up to which free ones are looked for.
const ROWS_MAX: usize = 1 << 20;

/// Decoding passes of one policy, by their rows.
pub(crate) struct Decoding<'a> {
    costs: &'a Costs<'a>,
    setting: &'a Setting,
    stream: Stream<'a>,
    placement: Placement,
    /// The job's decoding passes on average.
    mean: Pass,
}

impl<'a> Decoding<'a> {
    pub(crate) fn new(
        inputs: &Inputs<'_>,
        costs: &'a Costs<'a>,
        setting: &'a Setting,
        policy: &'a Policy,
        passes: &[Pass],
    ) -> Decoding<'a> {
        let decoding = passes.iter().filter(|pass| pass.sequences > 0.0);
        let alone = decoding.clone().filter(|pass| pass.prompt_rows == 0.0);
        // Passes with prompts say less about decoding ones, but may be all there are.
        let mixed = if alone.clone().next().is_some() { 0 } else { usize::MAX };
        let mut mean = Pass { seen: vec![0.0; costs.windows.len()], ..Pass::default() };
        for pass in alone.chain(decoding.take(mixed)) {
            let mut sum = pass.clone();
            sum.scale(pass.count);
            mean.add(&sum);
        }
        let mean = if mean.count > 0.0 { mean.mean() } else { mean };
        let placement = placement_of(inputs, costs, policy);
        let stream = Stream::new(inputs, costs, policy, &placement);
        Decoding { costs, setting, stream, placement, mean }
    }

    /// A pass of so many rows: of that many sequences, and above the mean number of them, of their trees.
    fn pass(&self, rows: usize) -> Pass {
        let (mean, rows) = (&self.mean, rows as f64);
        let per_row = if mean.rows() > 0.0 { rows / mean.rows() } else { 0.0 };
        let sequences = rows.min(mean.sequences.max(1.0));
        let part = if mean.sequences > 0.0 { sequences / mean.sequences } else { 0.0 };
        Pass {
            count: 1.0,
            sequences,
            decode_rows: rows,
            outputs: mean.outputs * per_row.min(1.0),
            seen: mean.seen.iter().map(|seen| seen * per_row).collect(),
            pages_read: mean.pages_read * part,
            pages_written: sequences,
            ..Pass::default()
        }
    }

    /// Seconds by rows: powers of 2 up to `most`, and `most`. More rows never take less time.
    pub(crate) fn curve(&self, most: usize) -> Vec<(usize, f64)> {
        let powers = (0..usize::BITS).map(|power| 1 << power).take_while(|&rows| rows < most);
        let mut least: f64 = 0.0;
        let point = |rows: usize| {
            let pass = self.pass(rows);
            let terms = self.costs.base(self.setting, &pass)
                + self.costs.placed(self.setting, &pass, &self.placement);
            let stall = self.stream.stall(self.setting, &pass);
            least = least.max(self.costs.seconds(self.setting, &pass, &terms) + stall);
            (rows, least)
        };
        powers.chain([most]).map(point).collect()
    }

    /// Rows that are computed in the time in which weights and pages are brought: N*.
    pub(crate) fn free_rows(&self) -> f64 {
        let spare = |rows: usize| {
            let pass = self.pass(rows);
            let brought = self.costs.placed(self.setting, &pass, &self.placement);
            let compute = self.costs.base(self.setting, &pass).compute() + brought.device;
            let overlap = Costs::host_overlap(self.setting, &pass);
            brought.link().max(brought.disk()) - beside(compute, brought.host, overlap)
        };
        if spare(1) <= 0.0 {
            return 0.0;
        }
        if spare(ROWS_MAX) > 0.0 {
            return f64::INFINITY;
        }
        let (mut free, mut busy) = (1, ROWS_MAX);
        while busy - free > 1 {
            let middle = free + (busy - free) / 2;
            if spare(middle) > 0.0 { free = middle } else { busy = middle }
        }
        free as f64
    }
}
