//! What the search enumerates, and what the linear program decides for it.

use crate::policy::Tier;

/// How keys and values get to where they are attended to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum KvMode {
    /// All of them are in reach of the device.
    Resident,
    /// All of them are in RAM, and the host attends.
    Host,
    /// Those off the device are brought to it in every pass.
    Staged,
}

/// What is enumerated outside of the linear program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Setting {
    pub(crate) batch: usize,
    pub(crate) prefill_chunk: usize,
    /// Nodes of draft trees in a pass, over all sequences.
    pub(crate) tree_budget: usize,
    /// Index into the places of the draft; `None` where none takes memory or time.
    pub(crate) draft: Option<usize>,
    pub(crate) micro_batch: usize,
    /// Index into the allowed cache formats.
    pub(crate) format: usize,
    pub(crate) kv_mode: KvMode,
    /// Slowest tier that cache, and weights, may be on.
    pub(crate) kv_floor: Tier,
    pub(crate) weight_floor: Tier,
    /// Neighbouring parts that the ring holds.
    pub(crate) ring_parts: usize,
    pub(crate) head: Head,
}

/// Where the output head may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Head {
    /// Anywhere: the ring holds what streams of it, and its neighbours.
    Whole,
    /// Anywhere: what streams of it comes in runs of a part of the ring, however large it is.
    InRuns,
    /// In reach of the device whatever it costs, so that no ring holds it. With draft trees it always is:
    /// logits are computed several times a pass, along the path.
    Stays,
}

impl Head {
    /// With trees, and without where memory is short.
    pub(crate) fn least(tree_budget: usize) -> Head {
        if tree_budget > 0 { Head::Stays } else { Head::InRuns }
    }
}

impl Setting {
    pub(crate) fn rows(&self) -> usize {
        self.batch + self.tree_budget + self.prefill_chunk
    }

    /// The one tier that the cache lives on, where its way leaves no choice.
    pub(crate) fn kv_home(&self, near: Tier) -> Option<Tier> {
        match self.kv_mode {
            KvMode::Resident => Some(near),
            KvMode::Host => Some(Tier::Ram),
            KvMode::Staged => None,
        }
    }

    /// Whether both are the same but for the ring.
    pub(crate) fn same_sizes(&self, other: &Setting) -> bool {
        let Setting { ring_parts, head, .. } = *self;
        *self == Setting { ring_parts, head, ..*other }
    }

    /// Rows of the largest micro-batch.
    pub(crate) fn micro_rows(&self) -> usize {
        self.micro_batch.min(self.rows())
    }
}

/// Fractions on device, RAM and disk.
pub(crate) type Fractions = [f64; 3];

/// What the linear program decides.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Placement {
    /// Weights of the layers, the same mix in each: only totals cost time, and an even mix needs the
    /// smallest ring.
    pub(crate) layers: Fractions,
    /// Weights of the head.
    pub(crate) head: Fractions,
    /// Cache of each kind of layer.
    pub(crate) kv: Vec<Fractions>,
    /// Part of the residual stream that is in RAM.
    pub(crate) activations: f64,
}
