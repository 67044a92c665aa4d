//! Attention on the host: a thread with a cpu device of its own, whose cache is in RAM.
//!
//! Queries, keys and values of a micro-batch are read from the device and handed over; the device goes
//! on with other micro-batches, and what attention made of them is written to it when its turn comes.

use super::ExecError;
use super::config::ExecutorConfig;
use super::trace::Trace;
use crate::backend::cpu::CpuDevice;
use crate::backend::{Device, DeviceError};
use crate::forward::{AttendSpace, Workspace, WorkspaceSize, attend_calls};
use crate::kernel::{Buffer, Call, KvFormat};
use crate::model::{LayerSpec, ModelSpec, Role, TensorId};
use crate::schedule::Batch;
use crate::store::ModelFiles;
use crossbeam::channel::{Receiver, Sender, unbounded};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

/// One micro-batch's attention in one layer.
struct Job {
    layer: usize,
    micro: usize,
    batches: Arc<Vec<Batch>>,
    /// `[rows][q]`, `[rows][kv]`, `[rows][kv]` on the way there; `[rows][q]` of results, and the rest as
    /// it was, on the way back.
    rows: Vec<f32>,
    /// When it began and ended.
    times: Option<(Instant, Instant)>,
}

/// Widths of queries and of keys.
fn widths(layer: &LayerSpec) -> (usize, usize) {
    (layer.heads * layer.head_dim, layer.kv_heads * layer.head_dim)
}

/// See the module.
pub(super) struct HostAttention {
    widths: Vec<(usize, usize)>,
    jobs: Option<Sender<Job>>,
    done: Receiver<Result<Job, DeviceError>>,
    /// Memory for rows on their way, one for each micro-batch of a pass.
    free: Vec<Vec<f32>>,
    thread: Option<JoinHandle<()>>,
}

impl HostAttention {
    /// Allocates the cache and what attention needs, and starts the thread.
    pub(super) fn start(
        files: &ModelFiles,
        config: &ExecutorConfig,
        threads: Option<usize>,
    ) -> Result<HostAttention, ExecError> {
        let mut attender = Attender::new(files, config, threads)?;
        let (jobs, queue) = unbounded::<Job>();
        let (report, done) = unbounded();
        let work = move || {
            for job in queue {
                if report.send(attender.run(job)).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("attention".into()).spawn(work);
        let floats = row_floats(files.spec()) * config.micro_rows.min(config.rows);
        Ok(HostAttention {
            widths: files.spec().layers.iter().map(widths).collect(),
            jobs: Some(jobs),
            done,
            free: (0..config.micro_batches()).map(|_| Vec::with_capacity(floats)).collect(),
            thread: Some(thread.map_err(ExecError::NoThread)?),
        })
    }

    /// Hands over what was projected for a micro-batch.
    pub(super) fn attend(
        &mut self,
        device: &mut dyn Device,
        w: &Workspace,
        (layer, micro): (usize, usize),
        batches: &Arc<Vec<Batch>>,
    ) -> Result<(), ExecError> {
        let ((q, kv), count) = (self.widths[layer], batches[micro].rows());
        let mut rows = self.free.pop().expect("each micro-batch is awaited before the next layer");
        rows.resize(count * (q + 2 * kv), 0.0);
        let (queries, rest) = rows.split_at_mut(count * q);
        let (keys, values) = rest.split_at_mut(count * kv);
        for (from, to) in [(w.q, queries), (w.k, keys), (w.v, values)] {
            device.read(from, 0, bytemuck::cast_slice_mut(to))?;
        }
        let job = Job { layer, micro, batches: Arc::clone(batches), rows, times: None };
        // The thread lives as long as this side of the channel.
        let _ = self.jobs.as_ref().map(|jobs| jobs.send(job));
        Ok(())
    }

    /// Waits for the oldest micro-batch that was handed over, which is `micro`, and writes what came of
    /// it to `out`, `[rows][q]`.
    pub(super) fn arrived(
        &mut self,
        device: &mut dyn Device,
        out: Buffer,
        (pass, micro): (usize, usize),
        trace: &mut Option<Trace>,
    ) -> Result<(), ExecError> {
        let job = self.done.recv().map_err(|_| ExecError::HostGone)??;
        assert_eq!(
            job.micro, micro,
            "micro-batches are awaited in the order they were handed over"
        );
        if let (Some(trace), Some(times)) = (trace, job.times) {
            trace.attention(job.layer, micro, pass, times);
        }
        let (q, _) = self.widths[job.layer];
        let results = &job.rows[..job.batches[micro].rows() * q];
        device.write(out, 0, bytemuck::cast_slice(results))?;
        self.free.push(job.rows);
        Ok(())
    }
}

impl Drop for HostAttention {
    fn drop(&mut self) {
        self.jobs = None;
        // A thread that panicked has said so.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The thread's side.
struct Attender {
    device: CpuDevice,
    layers: Vec<Layer>,
    space: AttendSpace,
    spec: ModelSpec,
    format: KvFormat,
    /// Memory that jobs reuse.
    calls: Vec<Call>,
}

/// One layer's cache, and the bias of its keys where they are kept without it.
#[derive(Clone, Copy)]
struct Layer {
    cache: Buffer,
    key_bias: Option<Buffer>,
}

impl Attender {
    fn new(
        files: &ModelFiles,
        config: &ExecutorConfig,
        threads: Option<usize>,
    ) -> Result<Attender, ExecError> {
        let (spec, format) = (files.spec().clone(), config.kv_format);
        let mut device = CpuDevice::new(threads)?;
        let mut layers = Vec::with_capacity(spec.layers.len());
        for (index, layer) in spec.layers.iter().enumerate() {
            let bytes = config.pages * layer.cache(format).page_bytes();
            let cache = device.alloc(bytes, "KV cache in RAM")?;
            let key_bias = if spec.splits_key_bias(index, format) {
                let id = TensorId::of_layer(index, Role::KeyBias);
                let values = files.read_vector(id)?;
                let buffer = device.alloc(values.len() * 4, &id.gguf_name())?;
                device.write(buffer, 0, bytemuck::cast_slice(&values))?;
                Some(buffer)
            } else {
                None
            };
            layers.push(Layer { cache, key_bias });
        }
        let size = space_size(config);
        let space = AttendSpace::alloc(&mut device, &spec, size)?;
        device.reserve(&sketch(&spec, size))?;
        Ok(Attender { device, layers, space, spec, format, calls: Vec::new() })
    }

    fn run(&mut self, mut job: Job) -> Result<Job, DeviceError> {
        let start = Instant::now();
        let (layer, batch) = (&self.spec.layers[job.layer], &job.batches[job.micro]);
        let ((q, kv), count) = (widths(layer), batch.rows());
        let (space, device) = (&self.space, &mut self.device);
        let (queries, rest) = job.rows.split_at(count * q);
        let (keys, values) = rest.split_at(count * kv);
        for (to, rows) in [(space.q, queries), (space.k, keys), (space.v, values)] {
            device.write(to, 0, bytemuck::cast_slice(rows))?;
        }
        device.write(space.slots, 0, bytemuck::cast_slice(&batch.slots))?;
        device.write(space.map, 0, bytemuck::cast_slice(&batch.map))?;
        device.write(space.pages, 0, bytemuck::cast_slice(&batch.pages))?;
        device.write(space.path, 0, bytemuck::cast_slice(&batch.path))?;
        let moves = batch.moves();
        device.write(space.moves, 0, bytemuck::cast_slice(moves))?;
        let Layer { cache, key_bias } = self.layers[job.layer];
        let operands = space.operands(layer, (cache, moves.len(), batch.longest()), key_bias);
        self.calls.clear();
        let calls = &mut self.calls;
        attend_calls(&self.spec, job.layer, self.format, &operands, count, calls);
        device.run(calls)?;
        device.read(space.out, 0, bytemuck::cast_slice_mut(&mut job.rows[..count * q]))?;
        job.times = Some((start, Instant::now()));
        Ok(job)
    }
}

/// f32 of a row's queries, keys and values in the widest layer.
fn row_floats(spec: &ModelSpec) -> usize {
    let floats = spec.layers.iter().map(widths).map(|(q, kv)| q + 2 * kv);
    floats.max().unwrap_or(0)
}

/// Sizes of the host's part of the workspace.
fn space_size(config: &ExecutorConfig) -> WorkspaceSize {
    WorkspaceSize { host_attention: false, ..config.workspace(false) }
}

/// The calls of all layers over buffers that do not exist.
fn sketch(spec: &ModelSpec, size: WorkspaceSize) -> Vec<Call> {
    let (space, nowhere) = (AttendSpace::sketch(spec), Buffer(0));
    let mut calls = Vec::new();
    for (index, layer) in spec.layers.iter().enumerate() {
        let operands = space.operands(layer, (nowhere, 0, 1), Some(nowhere));
        attend_calls(spec, index, size.kv_format, &operands, size.micro_rows, &mut calls);
    }
    calls
}

/// Bytes of RAM that attention on the host takes, its cache aside.
pub(super) fn bytes(spec: &ModelSpec, config: &ExecutorConfig, threads: Option<usize>) -> u64 {
    let size = space_size(config);
    let on_their_way = config.micro_batches() * size.micro_rows * row_floats(spec) * 4;
    let bias =
        |(index, layer): (usize, &LayerSpec)| match spec.splits_key_bias(index, size.kv_format) {
            true => widths(layer).1 * 4,
            false => 0,
        };
    let biases: usize = spec.layers.iter().enumerate().map(bias).sum();
    AttendSpace::bytes(spec, size)
        + CpuDevice::own_bytes(threads, &sketch(spec, size))
        + (on_their_way + biases) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// Planner and allocator count the same.
    #[test]
    fn what_is_taken_is_what_was_counted() {
        for name in ["llama", "qwen2", "gemma3"] {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny");
            let files = ModelFiles::open(root.join(name).to_str().unwrap()).unwrap();
            for kv_format in KvFormat::ALL {
                let resident = ExecutorConfig::resident(100, 9);
                let config =
                    ExecutorConfig { micro_rows: 32, kv_format, host_attention: true, ..resident };
                let host = HostAttention::start(&files, &config, Some(3)).unwrap();
                let floats: usize = host.free.iter().map(Vec::capacity).sum();
                let attender = Attender::new(&files, &config, Some(3)).unwrap();
                let layers = files.spec().layers.iter();
                let caches: usize = layers.map(|l| 9 * l.cache(kv_format).page_bytes()).sum();
                assert_eq!(
                    attender.device.memory().bytes + 4 * floats as u64,
                    bytes(files.spec(), &config, Some(3)) + caches as u64,
                    "{name}, {kv_format}"
                );
            }
        }
    }
}
