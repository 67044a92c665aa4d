//! Plans and runs as people read them: one line before a run, the three clocks after it.

use super::planning::Planned;
use super::replan::{Replanner, Work};
use crate::exec::Executor;
use crate::generate::SpeculationStats;
use crate::job::{Clocks, Homes, MovedBytes, PhaseSeconds, Placement, Summary, TierBytes};
use bytesize::ByteSize;
use forebay_planner::{OfBudget, Plan, Resource, Split, Tier};
use std::fmt::Write as _;

/// Bytes in the unit that suits them.
pub(super) fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// Name of a resource.
pub(super) fn resource(resource: Resource) -> &'static str {
    match resource {
        Resource::Device => "device",
        Resource::Host => "host attention",
        Resource::Link => "upload",
        Resource::Disk => "disk",
    }
}

/// Bytes by tier, tiers without any left out.
pub(super) fn tiers(bytes: TierBytes) -> String {
    let parts = [("gpu", bytes.gpu), ("ram", bytes.ram), ("disk", bytes.disk)];
    let parts = parts.into_iter().filter(|&(_, bytes)| bytes > 0);
    let parts: Vec<String> = parts.map(|(name, bytes)| format!("{name} {}", size(bytes))).collect();
    if parts.is_empty() { "none".to_string() } else { parts.join(", ") }
}

pub(super) fn tier_bytes(split: Split) -> TierBytes {
    TierBytes { gpu: split.device, ram: split.ram, disk: split.disk }
}

/// Name of a tier, as on the command line.
pub(super) fn tier(tier: Tier) -> &'static str {
    match tier {
        Tier::Device => "gpu",
        Tier::Ram => "ram",
        Tier::Disk => "disk",
    }
}

/// Draft trees of a plan, and why they have the size that they have; nothing if there can be none.
pub(super) fn speculation(plan: &Plan) -> Vec<String> {
    let policy = &plan.policy;
    if policy.tree_budget == 0 && plan.by_budget.len() < 2 {
        return Vec::new();
    }
    let free = match plan.free_rows {
        rows if rows.is_infinite() => "any number of rows is free".to_string(),
        rows => format!("{rows:.0} rows of a pass are free"),
    };
    let trees = match policy.draft {
        _ if policy.tree_budget == 0 => "none".to_string(),
        draft => {
            let draft = draft.map(|home| {
                let bytes = plan.memory.draft;
                match bytes.total() {
                    0 => format!(" of the model's layers in {}", tier(home)),
                    _ => format!(", draft model in {} ({})", tier(home), tiers(tier_bytes(bytes))),
                }
            });
            let (nodes, gain) = (policy.tree_budget, plan.tokens_per_pass);
            let draft = draft.unwrap_or_default();
            format!("{nodes} nodes a pass{draft}, {gain:.2} tokens per sequence and pass")
        }
    };
    let mut lines = vec![format!("draft trees: {trees}; {free}")];
    if plan.by_budget.len() > 1 {
        let budget = |of: &OfBudget| {
            let chosen = if of.tree_budget == policy.tree_budget { "*" } else { "" };
            format!("{}{chosen}: {:.1} s", of.tree_budget, of.seconds)
        };
        let budgets: Vec<String> = plan.by_budget.iter().map(budget).collect();
        lines.push(format!("by nodes of draft trees (* chosen): {}", budgets.join(", ")));
    }
    lines.extend(break_even(plan));
    lines
}

/// What the trees of a plan have to bring to be worth their pass; where it has none, the best that it might
/// have.
fn break_even(plan: &Plan) -> Option<String> {
    let trees = |of: &&OfBudget| match plan.policy.tree_budget {
        0 => of.tree_budget > 0,
        chosen => of.tree_budget == chosen,
    };
    let trees = plan.by_budget.iter().filter(trees);
    let best = trees.min_by(|a, b| a.seconds.total_cmp(&b.seconds))?;
    Some(format!(
        "trees of {} nodes are faster than none from {:.2} tokens a pass on; {:.2} are expected",
        best.tree_budget, best.break_even?, best.tokens_per_pass
    ))
}

/// What was planned, in a line.
pub(super) fn line(planned: &Planned) -> String {
    let (plan, policy) = (&planned.plan, &planned.plan.policy);
    format!(
        "plan: weights {}; KV cache {}{}; batch {}, micro-batch {}, prefill chunk {}{}; predicted {:.1} s, \
         limited by {}",
        tiers(tier_bytes(policy.weights)),
        tiers(tier_bytes(policy.kv)),
        if policy.host_attention { "; attention on the host" } else { "" },
        policy.batch,
        policy.micro_batch,
        policy.prefill_chunk,
        if policy.tree_budget > 0 {
            format!(", draft trees of {} nodes", policy.tree_budget)
        } else {
            String::new()
        },
        plan.seconds(),
        resource(plan.bottleneck)
    )
}

/// What a run tells about itself.
pub(super) struct Facts<'a>(pub(super) &'a Replanner<'a>);

impl Facts<'_> {
    fn executor(&self) -> &Executor {
        self.0.engine().executor()
    }

    /// Draft trees, if there were any.
    pub(super) fn trees(&self) -> Option<&SpeculationStats> {
        self.0.engine().tree_stats()
    }

    fn clocks(&self) -> Clocks {
        let ([prefill, decode], stats) = (self.0.predicted, self.0.engine().stats());
        let measured = PhaseSeconds::new(stats.prefill.as_secs_f64(), stats.decode.as_secs_f64());
        Clocks {
            predicted: PhaseSeconds::new(prefill, decode),
            simulated: PhaseSeconds::new(stats.simulated_prefill, stats.simulated_decode),
            measured,
        }
    }

    fn achieved(&self) -> Homes {
        let executor = self.executor();
        let mut homes = Homes::default();
        for tier in Tier::ALL {
            let (weights, kv) = executor.bytes_on(tier);
            let place = |bytes: &mut TierBytes, of: u64| match tier {
                Tier::Device if !executor.shares_ram() => bytes.gpu += of,
                Tier::Device | Tier::Ram => bytes.ram += of,
                Tier::Disk => bytes.disk += of,
            };
            place(&mut homes.weights, weights);
            place(&mut homes.kv, kv);
        }
        homes
    }

    /// Seconds that the bottleneck was busy at its measured rate.
    fn busy_seconds(&self, work: &Work) -> f64 {
        let (profile, moved) = (&self.0.profile, &work.moved);
        let over = |bytes: u64, rate: f64| if rate > 0.0 { bytes as f64 / rate } else { 0.0 };
        match self.0.planned.plan.bottleneck {
            Resource::Disk => {
                let (disk, read) = (&profile.disk, moved.read_bytes + moved.disk_load_bytes);
                over(read, disk.read_bytes_per_sec)
                    + over(moved.disk_store_bytes, disk.write_bytes_per_sec)
            }
            Resource::Link => {
                over(moved.uploaded_bytes + moved.page_load_bytes, profile.upload_bytes_per_sec)
            }
            Resource::Device => work.computed,
            Resource::Host => work.attended,
        }
    }

    /// Puts the facts into a summary.
    pub(super) fn fill(&self, summary: &mut Summary) {
        let (plan, work) = (&self.0.planned.plan, self.0.work());
        summary.clocks = self.clocks();
        let policy = &plan.policy;
        for (name, size) in [
            ("batch", policy.batch),
            ("micro_batch", policy.micro_batch),
            ("prefill_chunk", policy.prefill_chunk),
            ("tree_budget", policy.tree_budget),
        ] {
            summary.settings.insert(name.into(), size.into());
        }
        let weights = tier_bytes(plan.policy.weights);
        let planned = Homes { weights, kv: tier_bytes(plan.policy.kv) };
        summary.placement = Placement { planned, achieved: self.achieved() };
        summary.moved_bytes = MovedBytes {
            read: work.moved.read_bytes,
            uploaded: work.moved.uploaded_bytes,
            pages_loaded: work.moved.page_load_bytes,
            pages_stored: work.moved.page_store_bytes,
        };
        summary.bottleneck = Some(resource(plan.bottleneck).to_string());
        let measured = summary.clocks.measured.total_seconds;
        if measured > 0.0 {
            summary.bottleneck_fraction = Some(self.busy_seconds(&work) / measured);
        }
        summary.peak_bytes.device = work.device_bytes_peak;
    }

    /// The three clocks and what moved, for people.
    pub(super) fn text(&self, summary: &Summary) -> String {
        let mut text = String::new();
        let Clocks { predicted, simulated, measured } = summary.clocks;
        let mut row = |what: &str, of: fn(&PhaseSeconds) -> f64| {
            let [p, s, m] = [&predicted, &simulated, &measured].map(of);
            writeln!(text, "  {what:<9}{p:>10.2} s {s:>10.2} s {m:>10.2} s").expect("a string");
        };
        row("prefill", |c| c.prefill_seconds);
        row("decode", |c| c.decode_seconds);
        row("total", |c| c.total_seconds);
        let homes = summary.placement.achieved;
        let (weights, kv, moved) = (tiers(homes.weights), tiers(homes.kv), summary.moved_bytes);
        writeln!(text, "  weights: {weights}; KV cache: {kv}").expect("a string");
        let bottleneck = summary.bottleneck.as_deref().unwrap_or("device");
        let percent = 100.0 * summary.bottleneck_fraction.unwrap_or(0.0);
        write!(text, "  limited by the {bottleneck}, at {percent:.0} % of its measured rate")
            .expect("a string");
        for (what, bytes) in [
            ("read", moved.read),
            ("uploaded", moved.uploaded),
            ("of pages loaded", moved.pages_loaded),
            ("of pages stored", moved.pages_stored),
        ] {
            if bytes > 0 {
                write!(text, "; {} {what}", size(bytes)).expect("a string");
            }
        }
        format!("             predicted    simulated     measured\n{text}")
    }
}
