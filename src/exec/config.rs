//! Sizes and homes that an executor is made with.

use crate::forward::WorkspaceSize;
use crate::schedule::{Homes, RingSizes};

/// Rows whose logits are computed and fetched together while the head does not stream.
const LOGIT_ROWS: usize = 64;

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
        }
    }

    /// Sizes of the workspace; a streamed head computes the logits of all rows at once.
    pub fn workspace(&self, head_streams: bool) -> WorkspaceSize {
        let outputs = self.outputs.min(self.rows);
        WorkspaceSize {
            micro_rows: self.micro_rows.min(self.rows),
            micro_batches: self.rows.div_ceil(self.micro_rows),
            logit_rows: if head_streams { outputs } else { outputs.min(LOGIT_ROWS) },
            // No page has two owners, so the table of a pass never lists more than all pages.
            pages: self.pages,
        }
    }
}
