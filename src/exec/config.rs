//! Sizes and homes that an executor is made with.

use crate::forward::WorkspaceSize;
use crate::kernel::{KvFormat, PAGE_LEN};
use crate::schedule::{Homes, RingSizes};
use crate::store::{IoControl, Throttle, WeightSource};
use forebay_planner::{HEAD_ROWS, HardwareProfile, Tier};
use std::path::PathBuf;
use std::sync::Arc;

/// What an executor allocates, and where weights live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutorConfig {
    /// Most rows of a pass.
    pub rows: usize,
    /// Most rows of a micro-batch.
    pub micro_rows: usize,
    /// Most rows of a pass that want logits.
    pub outputs: usize,
    /// Pages of the KV cache.
    pub pages: usize,
    /// Where each segment of the weights lives.
    pub homes: Homes,
    /// The rings that streamed segments travel through.
    pub rings: RingSizes,
    /// Threads that read streams.
    pub readers: usize,
    /// Whether reads run ahead of what needs them; without, each begins when it is waited for.
    pub overlap: bool,
    /// Home of each layer's KV cache; all on the device if empty.
    pub cache_homes: Vec<Tier>,
    /// Whether the host attends, over a cache that is all in RAM, while a device with memory of its own
    /// computes the rest. It rounds otherwise than devices do, so tokens may differ.
    pub host_attention: bool,
    /// Pages of a window into caches that are not on the device: most that a micro-batch may see.
    pub window_pages: usize,
    /// Format of the KV cache.
    pub kv_format: KvFormat,
    /// Positions of the longest sequence at most.
    pub positions: usize,
    /// Home of the residual stream between the turns of micro-batches: the device, or RAM.
    pub activations: Tier,
}

/// What an executor works with beside a model and a device.
#[derive(Clone, Default)]
pub struct Resources {
    /// Where streams are read from; the model's own files if `None`.
    pub weights: Option<Arc<dyn WeightSource>>,
    /// Folder for cache pages on disk.
    pub spill_folder: PathBuf,
    /// What stands between the spill file and its disk.
    pub spill_control: IoControl,
    /// Threads of attention on the host; one for each core if `None`.
    pub host_threads: Option<usize>,
    /// Bounds the rate of copies to a device with memory of its own.
    pub upload_throttle: Option<Arc<Throttle>>,
    /// Whether to record when each step ran.
    pub trace: bool,
    /// Whether places in rings and windows are filled with nonsense before they are written again, so
    /// that a token tells if anything is used before it has arrived: for tests.
    pub poison: bool,
    /// Rates at which passes are simulated, if they are to be.
    pub profile: Option<HardwareProfile>,
}

impl ExecutorConfig {
    /// Everything on the device, passes in one piece.
    pub fn resident(rows: usize, pages: usize) -> ExecutorConfig {
        ExecutorConfig {
            rows,
            micro_rows: rows,
            outputs: rows,
            pages,
            homes: Homes::resident(),
            rings: RingSizes::default(),
            readers: 1,
            overlap: true,
            cache_homes: Vec::new(),
            host_attention: false,
            window_pages: 0,
            kv_format: KvFormat::default(),
            positions: pages * PAGE_LEN,
            activations: Tier::Device,
        }
    }

    /// Home of a layer's cache.
    pub fn cache_home(&self, layer: usize) -> Tier {
        let otherwise = if self.host_attention { Tier::Ram } else { Tier::Device };
        self.cache_homes.get(layer).copied().unwrap_or(otherwise)
    }

    /// Pages of a micro-batch's table at most.
    pub fn micro_pages(&self) -> usize {
        if self.window_pages > 0 { self.window_pages } else { usize::MAX }
    }

    /// Micro-batches of a pass at most: cut by rows, and by pages where they come through a window.
    pub(super) fn micro_batches(&self) -> usize {
        let by_rows = self.rows.div_ceil(self.micro_rows);
        match self.window_pages {
            0 => by_rows,
            // Two neighbours that pages have parted fill more than one window.
            window => by_rows + 2 * self.pages.div_ceil(window),
        }
    }

    /// Sizes of the workspace; a streamed head computes the logits of all rows at once.
    pub fn workspace(&self, head_streams: bool) -> WorkspaceSize {
        let outputs = self.outputs.min(self.rows);
        WorkspaceSize {
            micro_rows: self.micro_rows.min(self.rows),
            micro_batches: self.micro_batches(),
            logit_rows: if head_streams { outputs } else { outputs.min(HEAD_ROWS) },
            // No page has two owners, so the table of a pass never lists more than all pages.
            pages: self.pages,
            window_pages: self.window_pages,
            kv_format: self.kv_format,
            positions: self.positions,
            shared_rows: self.activations == Tier::Ram,
            host_attention: self.host_attention,
        }
    }
}
