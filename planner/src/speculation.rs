//! What draft trees gain and what they cost.

use crate::hardware::seconds_by_rows;
use crate::policy::{Split, Tier};

/// Rows of one draft pass at most, besides one for each sequence: more are several passes.
pub const DRAFT_ROWS: usize = 128;

/// Rows of one sequence whose logits are computed together: the first, and those that its path may
/// take next.
pub const AHEAD: usize = 8;

/// What is known of speculation for a job: what draft trees gain and cost.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Speculation {
    /// Nodes of draft trees in one pass, over all sequences, from which the plan chooses; 0 (off)
    /// always is a candidate.
    pub budgets: Vec<usize>,
    /// (nodes of one sequence's tree, tokens that it gains by a pass), ascending, starts with
    /// (0, 1.0). Between them it is linear in log2(1 + nodes), as measured gains about are; a part of a
    /// node, which is a node for a part of the sequences, gains that part.
    pub gain: Vec<(usize, f64)>,
    /// (nodes of all trees of a pass, draft passes that grow them), ascending; no draft passes at 0. One
    /// search grows all trees, and the most confident one's are the longest chains.
    pub rounds: Vec<(usize, f64)>,
    /// Rows that draft passes compute, for each node of a tree.
    pub draft_rows: f64,
    /// Rows whose logits the target computes, for each token gained.
    pub outputs: f64,
    /// Most nodes of one sequence's tree.
    pub nodes_max: usize,
    /// Places where the draft model could live; empty where trees cost no time (prompt lookup).
    pub drafts: Vec<Draft>,
    /// Bytes of RAM that lookup takes for each position of the target's cache.
    pub lookup_bytes: u64,
}

/// A draft model in one place.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// Device, or RAM (computed by the host's processor, or by the device where it shares RAM).
    pub home: Tier,
    /// Whether it is the target itself without the layers that have to be brought. It takes no memory and
    /// reads no prompt; its passes take the part of [`Draft::pass_seconds`] of what it keeps.
    pub is_target: bool,
    /// (rows, seconds) of one draft pass, ascending.
    pub pass_seconds: Vec<(usize, f64)>,
    /// Bytes by tier whatever the sizes: weights, vectors, working memory.
    pub bytes: Split,
    /// Bytes by tier of one page of its KV cache, all layers; it has [`Draft::pages`] of them.
    pub page_bytes: Split,
    /// Bytes by tier for each row of the largest draft pass: [`DRAFT_ROWS`], and one for each sequence.
    pub row_bytes: Split,
}

/// The value at `nodes`, linear in log2(1 + nodes) between points; `origin` at 0 where that is no
/// point, the last value beyond the last point.
fn interpolated(curve: &[(usize, f64)], nodes: f64, origin: f64) -> f64 {
    let after = curve.partition_point(|&(at, _)| at as f64 <= nodes);
    let (left, from) =
        if after == 0 { (0.0, origin) } else { (curve[after - 1].0 as f64, curve[after - 1].1) };
    let Some(&(right, to)) = curve.get(after) else { return from };
    let log = |nodes: f64| (1.0 + nodes).log2();
    from + (to - from) * (log(nodes) - log(left)) / (log(right as f64) - log(left))
}

impl Speculation {
    /// Nodes of each tree where so many `sequences` share a budget evenly; a mean, so not whole.
    pub fn nodes(&self, tree_budget: usize, sequences: f64) -> f64 {
        if sequences < 1.0 {
            0.0
        } else {
            (tree_budget as f64 / sequences).min(self.nodes_max as f64)
        }
    }

    /// Tokens that a sequence gains by a pass, with a tree of so many nodes.
    pub fn gain(&self, nodes: f64) -> f64 {
        let whole = interpolated(&self.gain, nodes.max(1.0), 1.0);
        1.0 + (whole - 1.0) * nodes.min(1.0)
    }

    /// Draft passes that grow trees of so many nodes in all: at least one, if the draft has anything to do.
    pub fn rounds(&self, nodes: f64) -> f64 {
        if nodes > 0.0 { interpolated(&self.rounds, nodes, 0.0).max(1.0) } else { 0.0 }
    }

    /// Index of the draft that lives there.
    pub(crate) fn draft_at(&self, home: Tier) -> Option<usize> {
        self.drafts.iter().position(|draft| draft.home == home)
    }

    /// Seconds in which `draft` grows a tree of so many nodes for each sequence.
    pub(crate) fn tree_seconds(&self, draft: &Draft, sequences: f64, nodes: f64) -> f64 {
        let all = sequences * nodes;
        let rounds = self.rounds(all);
        if rounds == 0.0 {
            return 0.0;
        }
        rounds * draft.seconds(all * self.draft_rows / rounds)
    }

    /// Why this makes no sense, if it does not.
    pub(crate) fn fault(&self, shares_ram: bool) -> Option<String> {
        let ascending = |curve: &[(usize, f64)]| curve.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let positive = |value: f64| value.is_finite() && value >= 0.0;
        if self.gain.first() != Some(&(0, 1.0)) || !ascending(&self.gain) {
            return Some("gains ascend from 1 token without a tree".into());
        }
        if self.gain.iter().any(|&(nodes, gain)| !(1.0..=1.0 + nodes as f64).contains(&gain)) {
            return Some(
                "a pass gains at least 1 token, and no more than one more per node".into(),
            );
        }
        if !ascending(&self.rounds) || self.rounds.iter().any(|&(_, rounds)| !positive(rounds)) {
            return Some("draft passes are counted by ascending nodes".into());
        }
        if !positive(self.draft_rows) || !positive(self.outputs) || self.nodes_max == 0 {
            return Some("trees have nodes, and rows of drafts and outputs are numbers".into());
        }
        let fault = self.drafts.iter().find_map(|draft| draft.fault(shares_ram));
        let twice = |(i, draft): (usize, &Draft)| self.draft_at(draft.home) != Some(i);
        fault.or_else(|| {
            let twice = self.drafts.iter().enumerate().any(twice);
            twice.then(|| "two drafts have the same home".into())
        })
    }
}

impl Draft {
    /// Seconds of one pass of so many rows: linear between what was measured, proportional beyond.
    pub(crate) fn seconds(&self, rows: f64) -> f64 {
        seconds_by_rows(&self.pass_seconds, rows)
    }

    /// Seconds of a prompt's rows, at the rate of the largest pass.
    pub(crate) fn prompt_seconds(&self, rows: f64, batch: usize) -> f64 {
        if self.is_target {
            return 0.0;
        }
        let most = (DRAFT_ROWS + batch) as f64;
        self.seconds(most) * rows / most
    }

    /// Pages of its cache beside a target's of so many, of so many positions each: nodes that the draft
    /// expands and that fall out of the best later lie there too, seldom as many again.
    pub fn pages(target: usize, tree_budget: usize, page_positions: usize) -> usize {
        target + tree_budget.div_ceil(page_positions)
    }

    /// Bytes by tier with a cache of so many pages.
    pub(crate) fn memory(&self, pages: usize, batch: usize) -> Split {
        let rows = (DRAFT_ROWS + batch) as u64;
        self.bytes + self.page_bytes.times(pages as u64) + self.row_bytes.times(rows)
    }

    fn fault(&self, shares_ram: bool) -> Option<String> {
        let points = &self.pass_seconds;
        let ascending = points.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let times = points.iter().all(|&(_, seconds)| seconds.is_finite() && seconds >= 0.0);
        if !ascending || !times || points.first().is_none_or(|&(rows, _)| rows == 0) {
            return Some("a draft's passes have seconds by ascending rows, from 1 on".into());
        }
        match self.home {
            Tier::Disk => Some("a draft computes from memory, not from disk".into()),
            Tier::Device if shares_ram => {
                Some("a draft in device memory, and this device computes in host memory".into())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_are_linear_in_the_logarithm_of_nodes() {
        let curve = [(0, 1.0), (1, 1.5), (7, 3.5)];
        let at = |nodes: f64| interpolated(&curve, nodes, 1.0);
        assert_eq!([0.0, 1.0, 3.0, 7.0, 900.0].map(at), [1.0, 1.5, 2.5, 3.5, 3.5]);
        assert_eq!(interpolated(&[(3, 4.0)], 1.0, 0.0), 2.0);
        assert_eq!(interpolated(&[], 5.0, 1.0), 1.0);
        let speculation = Speculation { gain: vec![(0, 1.0), (3, 2.0)], ..Speculation::default() };
        assert_eq!(
            [0.0, 0.5, 1.0, 3.0].map(|nodes| speculation.gain(nodes)),
            [1.0, 1.25, 1.5, 2.0]
        );
    }

    #[test]
    fn a_draft_takes_seconds_by_rows_and_bytes_by_sizes() {
        let draft = Draft {
            home: Tier::Ram,
            is_target: false,
            pass_seconds: vec![(2, 1.0), (4, 3.0)],
            bytes: Split::all(Tier::Ram, 1),
            page_bytes: Split::all(Tier::Ram, 10),
            row_bytes: Split::all(Tier::Ram, 1000),
        };
        assert_eq!([1.0, 3.0, 8.0].map(|rows| draft.seconds(rows)), [1.0, 2.0, 6.0]);
        // Beyond the last point in proportion to the rows.
        assert_eq!(draft.prompt_seconds(8.0, 2), 6.0);
        assert_eq!(draft.memory(3, 2).ram, 31 + 1000 * (2 + DRAFT_ROWS as u64));
        assert_eq!(Draft::pages(7, 17, 16), 9);
        let speculation = Speculation {
            rounds: vec![(6, 2.0)],
            draft_rows: 1.0,
            nodes_max: 3,
            ..Speculation::default()
        };
        // Two passes of 3 rows for two trees of 3 nodes; one pass of the least rows for a few nodes.
        assert_eq!(speculation.tree_seconds(&draft, 2.0, speculation.nodes(8, 2.0)), 4.0);
        assert_eq!(speculation.tree_seconds(&draft, 2.0, 0.5), 1.0);
        assert_eq!(speculation.tree_seconds(&draft, 2.0, 0.0), 0.0);
    }
}
