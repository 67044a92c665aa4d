//! What the planner decides.

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
}

/// A plan: sizes of passes and where everything lives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Most sequences in a pass.
    pub batch: usize,
    /// Sequences of a micro-batch.
    pub micro_batch: usize,
    /// Most prompt positions in a pass.
    pub prefill_chunk: usize,
    /// Weights.
    pub weights: Split,
    /// KV cache.
    pub kv: Split,
    /// Activations between layers.
    pub activations: Split,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_adds_up() {
        let split = Split { device: 1, ram: 2, disk: 4 };
        let parts = [Tier::Device, Tier::Ram, Tier::Disk].map(|tier| split.on(tier));
        assert_eq!(parts.iter().sum::<u64>(), split.total());
    }
}
