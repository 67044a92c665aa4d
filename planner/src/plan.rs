//! A policy with what is predicted of it.

use crate::error::Change;
use crate::policy::{Policy, Split, Tier};
use std::ops::{Add, AddAssign, Mul};

/// Seconds by what takes them; those of different resources run beside each other.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Terms {
    /// Reading weights and cache pages from disk.
    pub disk_read: f64,
    /// Writing changed cache pages to disk.
    pub disk_write: f64,
    /// RAM to device.
    pub upload: f64,
    /// Device to RAM.
    pub download: f64,
    /// Computation on the device.
    pub device: f64,
    /// Attention on the host, beside the device.
    pub host: f64,
    /// Submissions and passes as such, on the device's time.
    pub fixed: f64,
    /// Passes of a draft model: the device waits for them, wherever they are computed.
    pub draft: f64,
}

impl Terms {
    /// Seconds that the disk is busy.
    pub fn disk(&self) -> f64 {
        self.disk_read + self.disk_write
    }

    /// Seconds that the link to the device is busy: one queue carries both directions.
    pub fn link(&self) -> f64 {
        self.upload + self.download
    }

    /// Seconds that the device is busy, or waits for a draft.
    pub fn compute(&self) -> f64 {
        self.device + self.fixed + self.draft
    }

    /// Seconds that one resource is busy.
    pub fn of(&self, resource: Resource) -> f64 {
        match resource {
            Resource::Disk => self.disk(),
            Resource::Link => self.link(),
            Resource::Device => self.compute(),
            Resource::Host => self.host,
        }
    }

    /// The resource that is busy longest.
    pub fn bottleneck(&self) -> Resource {
        let later = |a: Resource, b: Resource| if self.of(b) > self.of(a) { b } else { a };
        Resource::ALL.into_iter().reduce(later).expect("there are resources")
    }
}

impl Add for Terms {
    type Output = Terms;

    fn add(self, other: Terms) -> Terms {
        Terms {
            disk_read: self.disk_read + other.disk_read,
            disk_write: self.disk_write + other.disk_write,
            upload: self.upload + other.upload,
            download: self.download + other.download,
            device: self.device + other.device,
            host: self.host + other.host,
            fixed: self.fixed + other.fixed,
            draft: self.draft + other.draft,
        }
    }
}

impl AddAssign for Terms {
    fn add_assign(&mut self, other: Terms) {
        *self = *self + other;
    }
}

impl Mul<f64> for Terms {
    type Output = Terms;

    fn mul(self, times: f64) -> Terms {
        Terms {
            disk_read: self.disk_read * times,
            disk_write: self.disk_write * times,
            upload: self.upload * times,
            download: self.download * times,
            device: self.device * times,
            host: self.host * times,
            fixed: self.fixed * times,
            draft: self.draft * times,
        }
    }
}

/// What a pass can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// The device that computes.
    Device,
    /// The processor, where it attends to keys and values in RAM for a device.
    Host,
    /// The link between RAM and device.
    Link,
    /// The disk.
    Disk,
}

impl Resource {
    /// All of them.
    pub const ALL: [Resource; 4] =
        [Resource::Device, Resource::Host, Resource::Link, Resource::Disk];
}

/// Most bytes on each tier, by use; what is on the device counts as RAM where it computes there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Weights at home. Those on disk stay in the model file and are not counted in [`total`](Self::total).
    pub weights: Split,
    /// KV cache.
    pub kv: Split,
    /// Rings of streamed weights.
    pub ring: Split,
    /// Residual stream.
    pub activations: Split,
    /// Workspace, logits and staged pages included.
    pub workspace: Split,
    /// Vectors, and what every policy needs.
    pub fixed: Split,
    /// The draft model with its cache, or lookup's tables.
    pub draft: Split,
}

impl Memory {
    /// Bytes counted against the budgets.
    pub fn total(&self) -> Split {
        let weights = Split { disk: 0, ..self.weights };
        weights + self.kv + self.ring + self.activations + self.workspace + self.fixed + self.draft
    }
}

/// The fastest policy of a tree budget.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OfBudget {
    /// Nodes of all trees of a pass; 0 for none.
    pub tree_budget: usize,
    /// Seconds of all passes.
    pub seconds: f64,
    /// Tokens that a decoding sequence is expected to gain by a pass.
    pub tokens_per_pass: f64,
    /// Tokens from which on these trees are faster than none: their pass takes so many times as long. `None`
    /// where none was not among what was tried.
    pub break_even: Option<f64>,
}

/// A policy and its time.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What to do.
    pub policy: Policy,
    /// Seconds of passes, shared out to prompt positions by their part of each pass's rows.
    pub prefill_seconds: f64,
    /// The same for decoding.
    pub decode_seconds: f64,
    /// Seconds of reading what stays in memory, before the first pass.
    pub load_seconds: f64,
    /// Passes of the whole job.
    pub passes: f64,
    /// Busy seconds of the whole job.
    pub terms: Terms,
    /// Tokens that a decoding sequence gains by a pass, on average over the job; 1 without
    /// speculation.
    pub tokens_per_pass: f64,
    /// (rows, seconds of a decoding pass of so many rows under this policy, without its draft), by
    /// powers of 2 up to the policy's most rows.
    pub curve: Vec<(usize, f64)>,
    /// Rows at which computing a decoding pass takes as long as bringing its weights and pages: up to
    /// there rows are free. 0 where nothing is brought, or one row takes longer; infinite where no
    /// number of rows does.
    pub free_rows: f64,
    /// The best that was found of each tree budget, by rising budgets: why [`Policy::tree_budget`] is what
    /// it is.
    pub by_budget: Vec<OfBudget>,
    /// The resource that is busy longest.
    pub bottleneck: Resource,
    /// Peak memory.
    pub memory: Memory,
    /// Tiers that are full while slower ones hold something: more of them would help.
    pub binding: Vec<Tier>,
    /// What single changes would make of [`seconds`](Self::seconds).
    pub what_ifs: Vec<(Change, f64)>,
    /// Other good policies and their seconds, the fastest first.
    pub runners_up: Vec<(Policy, f64)>,
}

impl Plan {
    /// Seconds of all passes.
    pub fn seconds(&self) -> f64 {
        self.prefill_seconds + self.decode_seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bottleneck_is_busy_longest() {
        let terms = Terms { disk_read: 3.0, disk_write: 1.0, device: 3.5, ..Terms::default() };
        assert_eq!(terms.bottleneck(), Resource::Disk);
        assert_eq!((terms * 2.0 + terms).disk(), 12.0);
        assert_eq!(Terms { fixed: 1.0, ..terms }.bottleneck(), Resource::Device);
    }
}
