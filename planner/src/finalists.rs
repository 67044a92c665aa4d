//! The end of a search: the best placements made real and run against the event clock.

use crate::candidates::{RINGS, neighbours};
use crate::policy::Policy;
use crate::price::{Priced, price};
use crate::round;
use crate::search::{Group, PROMISING, PRUNE, Placed, Search};
use crate::setting::Setting;

/// Placements that may turn out not to be realisable before the search gives up.
const FAILURES: usize = 64;

/// Policies that are made real for each tree budget that is not among the best.
const OF_BUDGET: usize = 2;

/// Kinds of policies with trees that are polished, and rounds of it.
const POLISHED: usize = 3;
const POLISH_ROUNDS: usize = 4;

impl Search<'_> {
    /// Looks around the best policies with trees by the event clock: waiting for drafts makes times
    /// less smooth than the program takes them to be.
    pub(crate) fn polish(&mut self, priced: &mut Vec<Priced>) {
        priced.sort_by(Priced::by_seconds);
        let Some(best) = priced.first().map(Priced::seconds) else { return };
        let like = |setting: &Setting| Group::like(&Setting { tree_budget: 1, ..*setting });
        let mut starts: Vec<(Setting, f64)> = Vec::new();
        for with in priced.iter().filter(|priced| priced.setting.tree_budget > 0) {
            let new = starts.iter().all(|(known, _)| like(known) != like(&with.setting));
            if new && with.seconds() < PROMISING * best && starts.len() < POLISHED {
                starts.push((with.setting, with.seconds()));
            }
        }
        for start in starts {
            let mut start = Some(start);
            for _ in 0..POLISH_ROUNDS {
                start = start.and_then(|start| self.step(start, priced));
            }
        }
    }

    /// Makes those neighbours of a setting real that could be faster; the best, if one is.
    fn step(
        &mut self,
        (from, seconds): (Setting, f64),
        priced: &mut Vec<Priced>,
    ) -> Option<(Setting, f64)> {
        let known = priced.len();
        for setting in neighbours(&self.inputs, &from) {
            if priced.iter().any(|priced| priced.setting.same_sizes(&setting)) {
                continue;
            }
            let job = self.job(&setting);
            let placed = self.place(&setting, job);
            let placed = placed.filter(|placed| placed.seconds < seconds * PRUNE);
            priced.extend(placed.and_then(|placed| self.realise(&placed)));
        }
        let better = priced[known..].iter().filter(|p| p.seconds() < seconds * PRUNE);
        let best = better.min_by(|a, b| a.by_seconds(b));
        best.map(|best| (best.setting, best.seconds()))
    }

    /// Real policies of up to `most` different kinds without trees and as many with them, from
    /// placements in their order, and some of every other tree budget.
    pub(crate) fn realise_best(&mut self, placed: &[Placed], most: usize) -> Vec<Priced> {
        let (with, without): (Vec<&Placed>, Vec<&Placed>) =
            placed.iter().partition(|placed| placed.setting.tree_budget > 0);
        let mut priced = self.realise_kinds(&without, most, |s: &Setting| {
            (s.batch.ilog2(), s.prefill_chunk, s.format, s.kv_mode)
        });
        // With trees there are more kinds; the sizes of chunks are polished.
        priced.extend(self.realise_kinds(&with, most, |s: &Setting| {
            (s.batch.ilog2(), s.tree_budget, Group::like(s))
        }));
        for budget in self.trees.budgets.clone() {
            if priced.iter().all(|priced| priced.setting.tree_budget != budget) {
                let of_budget = with.iter().copied().filter(|p| p.setting.tree_budget == budget);
                let of_budget: Vec<&Placed> = of_budget.collect();
                priced.extend(self.realise_kinds(&of_budget, OF_BUDGET, |s: &Setting| {
                    (s.batch.ilog2(), s.micro_batch)
                }));
            }
        }
        priced
    }

    /// Real policies of up to `most` different kinds.
    fn realise_kinds<K: PartialEq>(
        &mut self,
        placed: &[&Placed],
        most: usize,
        kind: impl Fn(&Setting) -> K,
    ) -> Vec<Priced> {
        let (mut priced, mut kinds, mut failed) = (Vec::new(), Vec::new(), 0);
        for placed in placed {
            if priced.len() == most || failed == FAILURES {
                break;
            }
            let kind = kind(&placed.setting);
            if kinds.contains(&kind) {
                continue;
            }
            match self.realise(placed) {
                Some(policy) => {
                    kinds.push(kind);
                    priced.push(policy);
                }
                None => failed += 1,
            }
        }
        priced
    }

    /// The policy nearest to a placement, with the ring that serves it best.
    fn realise(&mut self, placed: &Placed) -> Option<Priced> {
        let (inputs, costs) = (&self.inputs, &self.costs);
        let demands = self.jobs[placed.job].1.demands();
        let with_ring = |ring_parts: usize| {
            let setting = Setting { ring_parts, ..placed.setting };
            round::realise(inputs, costs, &setting, demands, &placed.placement)
        };
        // What does not fit with one ring does not with a larger one.
        let rings: Vec<(Setting, Policy)> = RINGS.into_iter().map_while(with_ring).collect();
        let priced = rings.into_iter().map(|(setting, policy)| self.price(&setting, policy));
        priced.min_by(|a, b| a.by_seconds(b))
    }

    /// Prices a policy over its passes, or over those with smaller trees that the engine may grow instead, if
    /// that is faster.
    pub(crate) fn price(&mut self, setting: &Setting, policy: Policy) -> Priced {
        let own = self.job(setting);
        let smaller = self.smaller_trees(setting).map(|smaller| self.job(&smaller));
        let over = |job: usize| {
            let passes = &self.jobs[job].1.passes;
            price(&self.inputs, &self.costs, setting, policy.clone(), passes)
        };
        let jobs = [own].into_iter().chain(smaller);
        jobs.map(over).min_by(|a, b| a.by_seconds(b)).expect("there is its own")
    }

    /// The next smaller trees for a single sequence: what its text is like decides how large they should be, so
    /// room for larger ones is worth having. In a batch that evens out.
    fn smaller_trees(&self, setting: &Setting) -> Option<Setting> {
        let known = &self.inputs.workload.speculation.as_ref()?.budgets;
        let smaller = known.iter().filter(|&&budget| (1..setting.tree_budget).contains(&budget));
        let tree_budget = *smaller.max().filter(|_| setting.batch == 1)?;
        Some(Setting { tree_budget, ..*setting })
    }
}
