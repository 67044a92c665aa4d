//! Layers that are alike, and what one of them brings.

use crate::passes::Pass;
use crate::policy::Tier;
use crate::setting::{Fractions, KvMode, Setting};

/// Bytes of an f32.
pub(crate) const FLOAT: f64 = 4.0;

/// Layers that are alike.
#[derive(Clone, Debug)]
pub(crate) struct Kind {
    /// Which.
    pub(crate) layers: Vec<usize>,
    /// (storage type, elements) of the matrices of each half.
    pub(crate) linear: [Vec<(usize, f64)>; 2],
    /// f32 touched per row in each half, besides.
    pub(crate) touched: [f64; 2],
    /// Keys and values, and products with them, of one position.
    pub(crate) kv_elements: f64,
    pub(crate) products: f64,
    pub(crate) query_len: f64,
    pub(crate) kv_len: f64,
    /// Index into the windows.
    pub(crate) window: usize,
    /// Bytes of a page in each format.
    pub(crate) page_bytes: Vec<u64>,
    /// The same on disk.
    pub(crate) spilled_bytes: Vec<u64>,
}

impl Kind {
    /// The fractions of its layers on each tier.
    pub(crate) fn shares(&self, homes: &[Tier]) -> Fractions {
        Tier::ALL.map(|tier| {
            let there = self.layers.iter().filter(|&&layer| homes[layer] == tier).count();
            there as f64 / self.layers.len() as f64
        })
    }

    /// Bytes up and down the link for one of its layers, if its cache is off the device.
    pub(crate) fn link_bytes(&self, setting: &Setting, pass: &Pass) -> [f64; 2] {
        match setting.kv_mode {
            KvMode::Resident => [0.0, 0.0],
            // Queries and new keys and values go down, attention's output comes up.
            KvMode::Host => {
                let (up, down) = (self.query_len, self.query_len + 2.0 * self.kv_len);
                [up, down].map(|len| pass.rows() * len * FLOAT)
            }
            KvMode::Staged => {
                let page = self.page_bytes[setting.format] as f64;
                [pass.pages_read * page, pass.pages_written * page]
            }
        }
    }
}
