//! Runs steps on a device.

use super::load::Loader;
use crate::backend::{Device, DeviceError, DeviceInfo, MemoryUse};
use crate::forward::{HeadWeights, LayerWeights, Workspace, angles, head_calls, layer_calls};
use crate::kernel::{Buffer, PAGE_LEN};
use crate::model::{ModelSpec, Role, TensorId};
use crate::quant::dequantize_row;
use crate::schedule::{Batch, Part, Step, load_steps, pass_steps};
use crate::store::{ModelFiles, StoreError};
use std::sync::Arc;

/// What stops a pass.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The model's files failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The files lack a tensor that the architecture needs.
    #[error("the model's files have no tensor for {0:?}")]
    MissingTensor(TensorId),
    /// The cache does not fit the device.
    #[error(
        "a KV cache of {pages} pages needs {bytes} bytes per layer, and {device} allows \
         {bytes_max}; lower --batch or --max-model-len"
    )]
    CacheTooLarge {
        /// Pages asked for.
        pages: usize,
        /// Bytes of one layer's cache.
        bytes: u64,
        /// Largest buffer of the device.
        bytes_max: u64,
        /// Which device.
        device: String,
    },
}

/// Sizes that an executor allocates once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecutorConfig {
    /// Most rows of a pass.
    pub rows: usize,
    /// Pages of the KV cache.
    pub pages: usize,
}

/// A model on a device, with its cache and workspace.
pub struct Executor {
    device: Box<dyn Device>,
    files: Arc<ModelFiles>,
    config: ExecutorConfig,
    layers: Vec<Option<LayerWeights>>,
    head: Option<HeadWeights>,
    caches: Vec<Buffer>,
    workspace: Workspace,
    scratch: Scratch,
}

/// Host memory that passes reuse.
#[derive(Default)]
struct Scratch {
    bytes: Vec<u8>,
    floats: Vec<f32>,
    logits: Vec<f32>,
}

impl Executor {
    /// Loads the whole model onto `device`, calling `progress(parts_done, parts)` as it goes.
    pub fn new(
        mut device: Box<dyn Device>,
        files: Arc<ModelFiles>,
        config: ExecutorConfig,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Executor, ExecError> {
        let spec = files.spec();
        let bytes_max = device.info().buffer_bytes_max;
        let mut caches = Vec::new();
        for layer in &spec.layers {
            let bytes = (config.pages * layer.cache().page_bytes()) as u64;
            if bytes > bytes_max {
                let (pages, device) = (config.pages, device.info().name.clone());
                return Err(ExecError::CacheTooLarge { pages, bytes, bytes_max, device });
            }
            caches.push(device.alloc(bytes as usize, "KV cache")?);
        }
        // No page has two owners, so the tables of a pass never list more than all pages.
        let workspace = Workspace::alloc(device.as_mut(), spec, config.rows, config.pages)?;
        let mut executor = Executor {
            layers: vec![None; spec.layers.len()],
            head: None,
            device,
            files: Arc::clone(&files),
            config,
            caches,
            workspace,
            scratch: Scratch::default(),
        };
        let steps = load_steps(spec);
        for (done, &step) in steps.iter().enumerate() {
            progress(done, steps.len());
            executor.step(step, &Batch::default(), &mut |_, _| {})?;
        }
        executor.scratch.bytes = Vec::new();
        Ok(executor)
    }

    /// The model's description.
    pub fn spec(&self) -> &ModelSpec {
        self.files.spec()
    }

    /// What the model runs on.
    pub fn device_info(&self) -> &DeviceInfo {
        self.device.info()
    }

    /// Bytes the device holds.
    pub fn memory(&self) -> MemoryUse {
        self.device.memory()
    }

    /// The sizes it was made with.
    pub fn config(&self) -> ExecutorConfig {
        self.config
    }

    /// Runs one pass over `batch`, handing each slice of logits to `each(first_output, logits)`:
    /// `logits` is `[outputs of the slice][vocab]`, and `first_output` indexes `batch.outputs`.
    pub fn pass(
        &mut self,
        batch: &Batch,
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), ExecError> {
        assert!(batch.rows() <= self.config.rows, "{} rows exceed the workspace", batch.rows());
        for step in pass_steps(self.files.spec(), !batch.outputs.is_empty()) {
            self.step(step, batch, each)?;
        }
        Ok(())
    }

    fn step(
        &mut self,
        step: Step,
        batch: &Batch,
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), ExecError> {
        match step {
            Step::Load(part) => self.load(part),
            Step::Embed => self.embed(batch),
            Step::Layer(index) => {
                let weights = self.layers[index].as_ref().expect("the schedule loads before use");
                let cache = self.caches[index];
                let (spec, w) = (self.files.spec(), &self.workspace);
                let calls = layer_calls(spec, index, weights, cache, w, batch.rows());
                Ok(self.device.run(&calls)?)
            }
            Step::Head => self.head(batch, each),
        }
    }

    fn load(&mut self, part: Part) -> Result<(), ExecError> {
        let (device, bytes) = (self.device.as_mut(), &mut self.scratch.bytes);
        let mut loader = Loader { files: &self.files, device, bytes };
        match part {
            Part::Layer(index) => self.layers[index] = Some(loader.layer(index)?),
            Part::Head => self.head = Some(loader.head()?),
        }
        Ok(())
    }

    /// Embedding rows come straight from the store, so that the table needs no device memory.
    fn embed(&mut self, batch: &Batch) -> Result<(), ExecError> {
        let spec = self.files.spec();
        let id = TensorId::global(Role::Embedding);
        let info = self.files.tensor(id).ok_or(ExecError::MissingTensor(id))?;
        let floats = &mut self.scratch.floats;
        floats.resize(batch.rows() * spec.hidden, 0.0);
        for (&token, out) in batch.tokens.iter().zip(floats.chunks_exact_mut(spec.hidden)) {
            let row = token as usize;
            self.files.read(id, row..row + 1, &mut self.scratch.bytes)?;
            dequantize_row(info.dtype, &self.scratch.bytes, out);
            out.iter_mut().for_each(|v| *v *= spec.embed_scale);
        }
        let w = &self.workspace;
        self.device.write(w.x, 0, bytemuck::cast_slice(floats))?;
        for (rope, &buffer) in spec.ropes.iter().zip(&w.angles) {
            angles(rope, &batch.positions, floats);
            self.device.write(buffer, 0, bytemuck::cast_slice(floats))?;
        }
        self.device.write(w.slots, 0, bytemuck::cast_slice(&batch.slots))?;
        self.device.write(w.map, 0, bytemuck::cast_slice(&batch.map))?;
        self.device.write(w.pages, 0, bytemuck::cast_slice(&batch.pages))?;
        self.device.write(w.path, 0, bytemuck::cast_slice(&batch.path))?;
        Ok(())
    }

    fn head(
        &mut self,
        batch: &Batch,
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), ExecError> {
        let (spec, w) = (self.files.spec(), &self.workspace);
        let weights = self.head.as_ref().expect("the schedule loads before use");
        let logits = &mut self.scratch.logits;
        for (slice, outputs) in batch.outputs.chunks(w.logit_rows).enumerate() {
            self.device.write(w.outputs, 0, bytemuck::cast_slice(outputs))?;
            self.device.run(&head_calls(spec, weights, w, outputs.len()))?;
            logits.resize(outputs.len() * spec.vocab, 0.0);
            self.device.read(w.logits, 0, bytemuck::cast_slice_mut(logits))?;
            each(slice * w.logit_rows, logits);
        }
        Ok(())
    }

    /// Positions the cache can hold in all.
    pub fn cache_positions(&self) -> usize {
        self.config.pages * PAGE_LEN
    }
}
