//! What the planner decides.

use crate::speculation::AHEAD;
use std::ops::{Add, AddAssign};

/// Where bytes can live, fastest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Memory of the device that computes.
    Device,
    /// Host memory.
    Ram,
    /// The model file, or a spill file.
    Disk,
}

impl Tier {
    /// All tiers, fastest first.
    pub const ALL: [Tier; 3] = [Tier::Device, Tier::Ram, Tier::Disk];
}

/// Bytes on each tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// On [`Tier::Device`].
    pub device: u64,
    /// On [`Tier::Ram`].
    pub ram: u64,
    /// On [`Tier::Disk`].
    pub disk: u64,
}

impl Split {
    /// All of `bytes` on one tier.
    pub fn all(tier: Tier, bytes: u64) -> Split {
        let mut split = Split::default();
        *split.on_mut(tier) = bytes;
        split
    }

    /// Bytes on all tiers.
    pub fn total(&self) -> u64 {
        self.device + self.ram + self.disk
    }

    /// Bytes on one tier.
    pub fn on(&self, tier: Tier) -> u64 {
        match tier {
            Tier::Device => self.device,
            Tier::Ram => self.ram,
            Tier::Disk => self.disk,
        }
    }

    /// The same, to be changed.
    pub fn on_mut(&mut self, tier: Tier) -> &mut u64 {
        match tier {
            Tier::Device => &mut self.device,
            Tier::Ram => &mut self.ram,
            Tier::Disk => &mut self.disk,
        }
    }

    /// By how much this exceeds `budget`, tier by tier.
    pub fn beyond(&self, budget: &Split) -> Split {
        let over = |tier: Tier| self.on(tier).saturating_sub(budget.on(tier));
        Split { device: over(Tier::Device), ram: over(Tier::Ram), disk: over(Tier::Disk) }
    }

    /// So many times as much on each tier.
    pub(crate) fn times(self, count: u64) -> Split {
        let Split { device, ram, disk } = self;
        Split { device: device * count, ram: ram * count, disk: disk * count }
    }

    /// Device bytes counted as host memory, for devices that compute in it.
    pub(crate) fn folded(self, shares_ram: bool) -> Split {
        if shares_ram { Split { device: 0, ram: self.device + self.ram, ..self } } else { self }
    }
}

impl Add for Split {
    type Output = Split;

    fn add(self, other: Split) -> Split {
        Split {
            device: self.device + other.device,
            ram: self.ram + other.ram,
            disk: self.disk + other.disk,
        }
    }
}

impl AddAssign for Split {
    fn add_assign(&mut self, other: Split) {
        *self = *self + other;
    }
}

/// Sizes of passes and where everything lives. Where the device computes in host memory
/// ([`HardwareProfile::shares_ram`](crate::HardwareProfile::shares_ram)) nothing is on
/// [`Tier::Device`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Most sequences in a pass.
    pub batch: usize,
    /// Rows of a micro-batch.
    pub micro_batch: usize,
    /// Most prompt positions in a pass.
    pub prefill_chunk: usize,
    /// Nodes of draft trees in a pass, over all sequences; 0: no speculation.
    pub tree_budget: usize,
    /// Home of the draft model; `None` where there is none, or no speculation.
    pub draft: Option<Tier>,
    /// Home of every segment of every matrix, in the order of
    /// [`ModelShape::matrices`](crate::ModelShape::matrices).
    pub homes: Vec<Vec<Tier>>,
    /// Bytes of weights by home.
    pub weights: Split,
    /// Pages of the KV cache; the same in every layer.
    pub pages: usize,
    /// Name of the cache's format.
    pub kv_format: String,
    /// Home of each layer's cache.
    pub kv_homes: Vec<Tier>,
    /// Bytes of the cache by home.
    pub kv: Split,
    /// Pages of one micro-batch in one layer at most, where they come from RAM or disk: what a window
    /// into such a cache holds.
    pub window_pages: usize,
    /// Whether the host attends, over a cache that is all in RAM; if not, pages that are off the device
    /// are brought to it in every pass.
    pub host_attention: bool,
    /// Home of the residual stream between layers.
    pub activations: Tier,
    /// Ring that streamed segments go through: on the device, and in RAM for what comes from disk on
    /// its way to a device with memory of its own.
    pub ring: Split,
}

impl Policy {
    /// Most rows of a pass.
    pub fn rows(&self) -> usize {
        self.batch + self.tree_budget + self.prefill_chunk
    }

    /// Most rows whose logits are computed together.
    pub fn outputs(&self) -> usize {
        outputs(self.batch, self.tree_budget)
    }
}

/// [`AHEAD`] rows of every sequence, or all of its tree if that is smaller.
pub(crate) fn outputs(batch: usize, tree_budget: usize) -> usize {
    batch + tree_budget.min(batch * (AHEAD - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_adds_up() {
        let split = Split { device: 1, ram: 2, disk: 4 };
        let parts = Tier::ALL.map(|tier| split.on(tier));
        assert_eq!(parts.iter().sum::<u64>(), split.total());
        assert_eq!((split + Split::all(Tier::Ram, 5)).ram, 7);
        assert_eq!(split.folded(true), Split { device: 0, ram: 3, disk: 4 });
        assert_eq!(split.beyond(&Split { device: 2, ram: 1, disk: 4 }), Split::all(Tier::Ram, 1));
    }
}
