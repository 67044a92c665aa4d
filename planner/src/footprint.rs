//! Memory that is neither weights nor cache, as the allocator knows it.

use crate::policy::Split;

/// What a policy asks of the allocator besides weights, cache and rings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Most sequences in a pass.
    pub batch: usize,
    /// Most rows of a pass.
    pub rows: usize,
    /// Most rows of a micro-batch.
    pub micro_rows: usize,
    /// Most rows whose logits are computed together: one for each sequence, and up to
    /// [`AHEAD`](crate::AHEAD) of it with draft trees.
    pub outputs: usize,
    /// Pages of the cache.
    pub pages: usize,
    /// How cache pages that the device cannot reach come to it.
    pub windows: Windows,
    /// Whether the host attends, over a cache in RAM.
    pub host_attention: bool,
}

/// Windows through which cache pages come to the device, in one layer for one micro-batch at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    /// Pages of a window, and of a micro-batch at most; 0 if no page comes through one.
    pub pages: usize,
    /// Bytes of the largest page that does.
    pub page_bytes: u64,
    /// Whether some of them live on disk.
    pub disk: bool,
}

impl Windows {
    /// Bytes of one window.
    pub fn bytes(&self) -> u64 {
        self.pages as u64 * self.page_bytes
    }
}

/// Rows whose logits are computed and fetched together while the head does not stream.
pub const HEAD_ROWS: usize = 64;

/// Sizes that planner and allocator share: one function for both, so that what fits the plan fits
/// the machine. More of anything must never take less.
pub trait Footprint {
    /// Bytes that every policy needs on each tier: tokenizer, queues, scratch, a packed copy of the
    /// weights on disk. Not the vectors, which [`ModelShape`](crate::ModelShape) counts.
    fn fixed(&self) -> Split;

    /// Bytes of buffers for passes of these sizes, windows for cache pages included.
    fn workspace(&self, demand: &Demand) -> Split;

    /// Bytes of the residual stream of a pass, wherever it lives; where that is not the device, the
    /// workspace has room for one micro-batch of it.
    fn activations(&self, demand: &Demand) -> u64;

    /// Bytes of one page of one layer's cache in a format.
    fn page_bytes(&self, layer: usize, format: &str) -> u64;

    /// Bytes that such a page takes on disk, and that are read and written.
    fn spilled_page_bytes(&self, layer: usize, format: &str) -> u64 {
        self.page_bytes(layer, format)
    }

    /// Most bytes of one buffer: a ring is one, and so is a layer's cache that the device can reach.
    fn buffer_bytes_max(&self) -> u64 {
        u64::MAX
    }
}

/// A footprint that is linear in everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinearFootprint {
    /// Bytes that every policy needs.
    pub fixed: Split,
    /// Workspace on the device per row of a pass.
    pub row_bytes: u64,
    /// Workspace on the device per row of a micro-batch.
    pub micro_row_bytes: u64,
    /// Logits on the device per output.
    pub output_bytes: u64,
    /// Residual stream per row.
    pub activation_row_bytes: u64,
    /// Windows for cache pages, of which one is filled while another is used.
    pub windows: u64,
    /// Bytes of a page by (format, bytes in each layer).
    pub pages: Vec<(String, Vec<u64>)>,
    /// Most bytes of one buffer, if there is a limit.
    pub buffer_bytes: Option<u64>,
}

impl Footprint for LinearFootprint {
    fn fixed(&self) -> Split {
        self.fixed
    }

    fn workspace(&self, demand: &Demand) -> Split {
        let device = self.row_bytes * demand.rows as u64
            + self.micro_row_bytes * demand.micro_rows as u64
            + self.output_bytes * demand.outputs as u64;
        let windows = self.windows * demand.windows.bytes();
        let ram = if demand.windows.disk { windows } else { 0 };
        Split { device: device + windows, ram, disk: 0 }
    }

    fn activations(&self, demand: &Demand) -> u64 {
        self.activation_row_bytes * demand.rows as u64
    }

    fn page_bytes(&self, layer: usize, format: &str) -> u64 {
        let of_format = self.pages.iter().find(|(name, _)| name == format);
        of_format.and_then(|(_, bytes)| bytes.get(layer)).copied().unwrap_or(0)
    }

    fn buffer_bytes_max(&self) -> u64 {
        self.buffer_bytes.unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_footprint_counts_each_size_once() {
        let footprint = LinearFootprint {
            row_bytes: 1,
            micro_row_bytes: 10,
            output_bytes: 100,
            windows: 2,
            pages: vec![("f16".into(), vec![64, 32])],
            ..LinearFootprint::default()
        };
        let windows = Windows { pages: 10, page_bytes: 100, disk: true };
        let demand = Demand { rows: 3, micro_rows: 2, outputs: 4, windows, ..Demand::default() };
        assert_eq!(footprint.workspace(&demand), Split { device: 2423, ram: 2000, disk: 0 });
        assert_eq!(footprint.page_bytes(1, "f16"), 32);
    }
}
