//! Why there is no plan.

use crate::policy::{Split, Tier};
use std::fmt;

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum PlanError {
    /// The inputs contradict themselves or lack something.
    BadInput(String),
    /// Not even the smallest policy fits the budgets.
    DoesNotFit {
        /// Bytes that are missing on each tier; giving exactly these makes it fit. One tier wherever
        /// one is enough.
        missing: Split,
        /// Bytes that the smallest policy takes.
        needed: Split,
        /// The budgets.
        budgets: Split,
        /// Single changes that would each make it fit, smallest first.
        remedies: Vec<Change>,
    },
}

/// One change to the inputs.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Change {
    /// More bytes on a tier.
    Grow(Tier, u64),
    /// A disk this many times as fast.
    FasterDisk(f64),
    /// No more sequences in a pass than this.
    Batch(usize),
    /// No more nodes of draft trees in a pass than this.
    TreeBudget(usize),
    /// No longer sequences than this many positions.
    Longest(usize),
    /// Leave this part of the policy to the planner.
    Unpin(&'static str),
}

/// Bytes in the unit that suits them.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        match self.0.checked_ilog2().unwrap_or(0) / 10 {
            0 => write!(f, "{} bytes", self.0),
            1 => write!(f, "{:.1} KiB", bytes / 1024.0),
            2 => write!(f, "{:.1} MiB", bytes / f64::from(1 << 20)),
            _ => write!(f, "{:.2} GiB", bytes / f64::from(1 << 30)),
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tier::Device => "device memory",
            Tier::Ram => "RAM",
            Tier::Disk => "disk space",
        })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Grow(tier, bytes) => write!(f, "{} more {tier}", Bytes(*bytes)),
            Change::FasterDisk(times) => write!(f, "a disk {times} times as fast"),
            Change::Batch(batch) => write!(f, "a batch of at most {batch}"),
            Change::TreeBudget(nodes) => {
                write!(f, "draft trees of at most {nodes} nodes in a pass")
            }
            Change::Longest(positions) => {
                write!(f, "sequences of at most {positions} positions")
            }
            Change::Unpin(what) => write!(f, "leaving the {what} to the planner"),
        }
    }
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (missing, needed, budgets, remedies) = match self {
            PlanError::BadInput(message) => return f.write_str(message),
            PlanError::DoesNotFit { missing, needed, budgets, remedies } => {
                (missing, needed, budgets, remedies)
            }
        };
        let short = Tier::ALL.into_iter().filter(|&tier| missing.on(tier) > 0);
        for (i, tier) in short.enumerate() {
            let [missing, needed, budget] = [missing, needed, budgets].map(|s| Bytes(s.on(tier)));
            let and = if i == 0 { "" } else { "; " };
            write!(f, "{and}{tier} is short of {missing}: at least {needed} of {budget}")?;
        }
        for (i, remedy) in remedies.iter().enumerate() {
            let or = if i == 0 { "; what would fit: " } else { ", or " };
            write!(f, "{or}{remedy}")?;
        }
        Ok(())
    }
}

impl std::error::Error for PlanError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_tier_bytes_and_remedies() {
        let error = PlanError::DoesNotFit {
            missing: Split::all(Tier::Ram, 3 << 29),
            needed: Split::all(Tier::Ram, 5 << 29),
            budgets: Split::all(Tier::Ram, 1 << 30),
            remedies: vec![Change::Grow(Tier::Ram, 3 << 29), Change::Longest(1024)],
        };
        let text = "RAM is short of 1.50 GiB: at least 2.50 GiB of 1.00 GiB; what would fit: 1.50 GiB \
                    more RAM, or sequences of at most 1024 positions";
        assert_eq!(error.to_string(), text);
        assert_eq!(Bytes(512).to_string(), "512 bytes");
        assert_eq!(Bytes(3 << 19).to_string(), "1.5 MiB");
    }
}
