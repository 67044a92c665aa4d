//! What the job asks for.

use crate::speculation::{Draft, Speculation};

/// Requests of the same lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requests {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens that will be generated: an estimate.
    pub output: usize,
    /// How many such requests follow each other.
    pub count: usize,
}

/// Lengths of the requests that are still to be answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Workload {
    /// In the order of the file.
    pub requests: Vec<Requests>,
    /// Positions of the longest sequence that the cache must hold, at the most tokens it may
    /// generate; 0 for the longest of `requests`.
    pub longest: usize,
    /// What is known of draft trees; `None` where none can be grown.
    pub speculation: Option<Speculation>,
}

impl Workload {
    /// How many requests.
    pub fn count(&self) -> usize {
        self.requests.iter().map(|r| r.count).sum()
    }

    /// Prompt tokens and tokens to generate.
    pub fn tokens(&self) -> (usize, usize) {
        let sum = |f: fn(&Requests) -> usize| self.requests.iter().map(|r| f(r) * r.count).sum();
        (sum(|r| r.prompt), sum(|r| r.output))
    }

    /// Positions that the cache must be able to hold for one sequence.
    pub fn longest(&self) -> usize {
        let known = self.requests.iter().filter(|r| r.count > 0).map(|r| r.prompt + r.output);
        known.max().unwrap_or(0).max(self.longest)
    }

    /// The same with the rows of its draft tree behind it, where a pass has so many nodes.
    pub fn longest_with_tree(&self, tree_budget: usize) -> usize {
        let nodes_max = self.speculation.as_ref().map_or(0, |s| s.nodes_max);
        self.longest() + tree_budget.min(nodes_max)
    }

    /// Index of the draft that is the target itself.
    pub(crate) fn target_draft(&self) -> Option<usize> {
        self.speculation.as_ref()?.drafts.iter().position(|draft| draft.is_target)
    }

    /// So many pages of the target's cache, and those for what a draft expands there and drops later.
    pub(crate) fn with_spare_pages(
        &self,
        pages: usize,
        tree_budget: usize,
        page_positions: usize,
    ) -> usize {
        match self.target_draft() {
            Some(_) => Draft::pages(pages, tree_budget, page_positions),
            None => pages,
        }
    }

    /// `count` (prompt, output) pairs spread evenly over the file; all of them if there are no more.
    pub(crate) fn sample(&self, count: usize) -> Vec<(usize, usize)> {
        let all = self.count();
        let count = count.min(all);
        let mut picked = Vec::with_capacity(count);
        let (mut before, mut runs) = (0, self.requests.iter());
        let Some(mut run) = runs.next() else { return picked };
        for i in 0..count {
            let at = (2 * i + 1) * all / (2 * count);
            while at >= before + run.count {
                before += run.count;
                run = runs.next().expect("the counts add up to `all`");
            }
            picked.push((run.prompt, run.output));
        }
        picked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(requests: &[(usize, usize, usize)]) -> Workload {
        let requests =
            requests.iter().map(|&(prompt, output, count)| Requests { prompt, output, count });
        Workload { requests: requests.collect(), ..Workload::default() }
    }

    #[test]
    fn sums_count_every_request() {
        let job = workload(&[(3, 2, 4), (1, 1, 1), (99, 99, 0)]);
        assert_eq!((job.count(), job.tokens(), job.longest()), (5, (13, 9), 5));
        assert_eq!(Workload { longest: 64, ..job }.longest(), 64);
    }

    #[test]
    fn a_sample_is_spread_over_the_file() {
        let job = workload(&[(1, 1, 50), (2, 1, 0), (3, 1, 50)]);
        assert_eq!(job.sample(1000).len(), 100);
        let prompts: Vec<usize> = job.sample(4).iter().map(|r| r.0).collect();
        assert_eq!(prompts, [1, 1, 3, 3]);
    }
}
