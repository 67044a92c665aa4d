//! A model's sizes, and the executor's own, in the planner's terms.

use super::config::ExecutorConfig;
use super::executor::FETCH_ROWS;
use super::sketch::sketch_layer;
use super::{host, mover, pager};
use crate::backend::Device;
use crate::forward::Workspace;
use crate::kernel::{KvFormat, PAGE_LEN};
use crate::model::{LayerSpec, ModelSpec, TensorId};
use crate::quant::Segment;
use crate::schedule::{Matrices, Part};
use crate::store::{ModelFiles, StoreError};
use forebay_planner::{Demand, Footprint, LayerShape, MatrixShape, ModelShape, Split, Tier};
use std::cell::RefCell;
use std::collections::HashMap;

/// The planner's view of a model: elements to multiply with, bytes of every segment. With attention on
/// the host other matrices are needed together.
pub fn model_shape(files: &ModelFiles, host_attention: bool) -> Result<ModelShape, StoreError> {
    let spec = files.spec();
    let matrices = Matrices::new(spec, |id| files.packing(id))?.attending_on_host(host_attention);
    let shape = |id: TensorId| {
        let packing = matrices.packing(id);
        let segments = matrices.segments(id);
        MatrixShape {
            dtype: packing.dtype.to_string(),
            rows: packing.rows,
            cols: packing.cols,
            segments: segments.iter().map(|s: &Segment| s.padded() as u64).collect(),
        }
    };
    let shapes = |part: Part| matrices.tensors(spec, part).into_iter().map(shape).collect();
    let layer = |(index, layer): (usize, &LayerSpec)| LayerShape {
        attention: shapes(Part::Attention(index)),
        feed_forward: shapes(Part::FeedForward(index)),
        heads: layer.heads,
        kv_heads: layer.kv_heads,
        head_dim: layer.head_dim,
        window: layer.window,
        feed_forward_len: layer.feed_forward,
    };
    let vectors = spec.tensors().into_iter().filter(|id| id.role.is_vector());
    Ok(ModelShape {
        layers: spec.layers.iter().enumerate().map(layer).collect(),
        head: shapes(Part::Head(0)).pop().unwrap_or_default(),
        hidden: spec.hidden,
        vocab: spec.vocab,
        vector_bytes: vectors.map(|id| 4 * spec.shape(id).1 as u64).sum(),
        page_positions: PAGE_LEN,
    })
}

/// What the executor and its device allocate besides weights, cache and rings.
pub struct ExecutorFootprint<'a> {
    spec: &'a ModelSpec,
    matrices: Matrices,
    device: &'a dyn Device,
    fixed: Split,
    /// Format of the cache, and positions of the longest sequence.
    kv: (KvFormat, usize),
    /// Threads of attention on the host.
    host_threads: Option<usize>,
    /// Working memory of the device by rows of a micro-batch, and whether the host attends.
    working: RefCell<HashMap<(usize, bool), u64>>,
}

impl<'a> ExecutorFootprint<'a> {
    /// Of a model on a device; `fixed` bytes are taken whatever the policy. `kv` is the format of the
    /// cache and the positions of the longest sequence, `host_threads` are those of attention on the host.
    pub fn new(
        files: &'a ModelFiles,
        device: &'a dyn Device,
        fixed: Split,
        kv: (KvFormat, usize),
        host_threads: Option<usize>,
    ) -> Result<ExecutorFootprint<'a>, StoreError> {
        let spec = files.spec();
        let matrices = Matrices::new(spec, |id| files.packing(id))?;
        let working = RefCell::default();
        Ok(ExecutorFootprint { spec, matrices, device, fixed, kv, host_threads, working })
    }

    fn config(&self, demand: &Demand) -> ExecutorConfig {
        let resident = ExecutorConfig::resident(demand.rows, demand.pages);
        ExecutorConfig {
            micro_rows: demand.micro_rows.max(1),
            outputs: demand.outputs,
            kv_format: self.kv.0,
            positions: self.kv.1,
            window_pages: demand.windows.pages,
            host_attention: demand.host_attention,
            activations: Tier::Ram,
            ..resident
        }
    }

    /// Bytes that the device works with beside the operands of calls over `rows` rows.
    fn working_bytes(&self, rows: usize, host_attention: bool) -> u64 {
        let key = (rows, host_attention);
        if let Some(&bytes) = self.working.borrow().get(&key) {
            return bytes;
        }
        let layers = (0..self.spec.layers.len()).map(|layer| {
            let way = (rows, self.kv.0, host_attention);
            self.device.working_bytes(&sketch_layer(self.spec, &self.matrices, layer, way))
        });
        let bytes = layers.max().unwrap_or(0);
        self.working.borrow_mut().insert(key, bytes);
        bytes
    }
}

impl Footprint for ExecutorFootprint<'_> {
    fn fixed(&self) -> Split {
        self.fixed
    }

    fn workspace(&self, demand: &Demand) -> Split {
        // Whether the head streams is not known yet: as if it did.
        let config = self.config(demand);
        let size = config.workspace(true);
        let device = Workspace::bytes(self.spec, size)
            + self.working_bytes(size.micro_rows.max(size.logit_rows), demand.host_attention);
        let fetched = FETCH_ROWS.min(size.logit_rows) * self.spec.vocab;
        let embedded = size.micro_rows * self.spec.hidden;
        let ram = 4 * (fetched + embedded) as u64;
        let windows = pager::bytes(&demand.windows, self.device.info().computes_in_ram());
        // A checksum for each page on disk.
        let sums = if demand.windows.disk { 8 * demand.pages * self.spec.layers.len() } else { 0 };
        let attention = match demand.host_attention {
            true => host::bytes(self.spec, &config, self.host_threads),
            false => 0,
        };
        let ram = ram + sums as u64 + attention;
        Split { device, ram, disk: 0 } + windows
    }

    fn activations(&self, demand: &Demand) -> u64 {
        let config = self.config(demand);
        (config.micro_batches() * config.micro_rows.min(config.rows) * self.spec.hidden * 4) as u64
    }

    fn page_bytes(&self, layer: usize, format: &str) -> u64 {
        let format = KvFormat::from_name(format).unwrap_or_default();
        self.spec.layers[layer].cache(format).page_bytes() as u64
    }

    fn spilled_page_bytes(&self, layer: usize, format: &str) -> u64 {
        mover::stride(self.page_bytes(layer, format) as usize) as u64
    }

    fn buffer_bytes_max(&self) -> u64 {
        self.device.info().buffer_bytes_max
    }
}
