//! Makes an executor: what is resident is loaded, what streams is begun.

use super::ExecError;
use super::clock::Clock;
use super::config::{ExecutorConfig, Resources};
use super::executor::{Executor, InRam, POISON, Scratch};
use super::host::HostAttention;
use super::load::Loader;
use super::mover::{Home, stride};
use super::pager::Pager;
use super::reader::{Reader, Target};
use super::resting::Resting;
use super::reused::Reused;
use super::sketch::sketch;
use super::streams::Streams;
use super::trace::Trace;
use crate::backend::Device;
use crate::forward::{self, HeadWeights, LayerWeights, Workspace};
use crate::kernel::Buffer;
use crate::model::ModelSpec;
use crate::schedule::{Matrices, Part, Step, StreamPlan, prologue};
use crate::store::{AlignedBuffer, FileWeights, IoControl, ModelFiles, SpillFile, WeightSource};
use forebay_planner::Tier;
use std::collections::HashMap;
use std::sync::Arc;

impl Executor {
    /// Loads what is resident onto `device`, calling `progress(parts_done, parts)` as it goes, and
    /// starts the streams of the rest. Streams come from the model's own files.
    pub fn new(
        device: Box<dyn Device>,
        files: Arc<ModelFiles>,
        config: ExecutorConfig,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Executor, ExecError> {
        Executor::with(device, files, config, Resources::default(), progress)
    }

    /// As [`Executor::new`], with what the machine lends.
    pub fn with(
        mut device: Box<dyn Device>,
        files: Arc<ModelFiles>,
        config: ExecutorConfig,
        resources: Resources,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Executor, ExecError> {
        let source = source(&files, &resources)?;
        let spec = files.spec();
        let shares_ram = device.info().computes_in_ram();
        let config = attending(config, shares_ram)?;
        let matrices = Matrices::new(spec, |id| files.packing(id))?;
        let matrices = matrices.attending_on_host(config.host_attention);
        device.prepare(&sketch(spec, &matrices, &config));
        let mut plan = StreamPlan::new(spec, &matrices, &config.homes, config.rings, shares_ram)?;
        plan.caches = (0..spec.layers.len()).map(|layer| config.cache_home(layer)).collect();
        plan.rows_in_ram = config.activations == Tier::Ram;
        let ring = match plan.streams.is_empty() {
            true => None,
            false => Some(device.alloc(config.rings.device, "ring of streamed weights")?),
        };
        let (layers, head) = load(device.as_mut(), &files, &plan, ring, progress)?;
        let caches = caches(device.as_mut(), spec, &config)?;
        let host = || HostAttention::start(&files, &config, resources.host_threads);
        let host = config.host_attention.then(host).transpose()?;
        let pager = pager(device.as_mut(), spec, &config, &resources, shares_ram)?;
        let shape = super::model_shape(&files, config.host_attention)?;
        let clock = |profile| Clock::new(&matrices, &plan, shape, profile, config.kv_format);
        let clock = resources.profile.clone().map(clock);
        let size = config.workspace(plan.head_streams());
        let workspace = Workspace::alloc(device.as_mut(), spec, size)?;
        let bind = |(index, layer): (usize, LayerWeights)| layer.bind(spec, index, &workspace);
        let rest = || Resting::new(spec.hidden, size.micro_rows, size.micro_batches);
        let mut executor = Executor {
            streams: None,
            pager,
            host,
            in_ram: load_ram(device.as_mut(), &plan, &*source, copies_by_itself(&resources))?,
            host_ring: None,
            device,
            files: Arc::clone(&files),
            config,
            plan,
            ring,
            layers: layers.into_iter().enumerate().map(bind).collect(),
            head: head.bind(&workspace),
            caches,
            workspace,
            resting: size.shared_rows.then(rest).transpose()?,
            scratch: Scratch::default(),
            window: None,
            pending: Vec::new(),
            passes: 0,
            reused: Reused::default(),
            last: Default::default(),
            uploaded_bytes: 0,
            ahead: 0,
            throttle: resources.upload_throttle,
            poison: resources.poison,
            trace: resources.trace.then(Trace::new),
            clock,
            simulated: 0.0,
        };
        executor.reserve()?;
        executor.poison_ring()?;
        executor.start_streams(&source)?;
        Ok(executor)
    }

    /// Takes the working memory of the largest pass, so that no pass runs out of it.
    fn reserve(&mut self) -> Result<(), ExecError> {
        let (spec, w) = (self.files.spec(), &self.workspace);
        let rows = w.size.micro_rows;
        // No call is run: any buffer stands for a cache.
        let view = (!self.plan.host_attention).then(|| w.micro[0].view(w.q, (0, 1)));
        let mut calls = Vec::new();
        for (layer, weights) in self.layers.iter().enumerate() {
            let view = view.as_ref();
            calls.extend(forward::layer_calls(spec, layer, weights, view, w, (0, rows)));
        }
        for part in &self.plan.parts {
            if let Part::Head(index) = part.part {
                calls.push(forward::head_call(spec, &self.head, w, index, w.size.logit_rows));
            }
        }
        Ok(self.device.reserve(&calls)?)
    }

    fn poison_ring(&mut self) -> Result<(), ExecError> {
        if let Some(ring) = self.ring.filter(|_| self.poison) {
            self.device.write(ring, 0, &vec![POISON; self.plan.rings.device])?;
        }
        Ok(())
    }

    fn start_streams(&mut self, source: &Arc<dyn WeightSource>) -> Result<(), ExecError> {
        if self.plan.reads().next().is_some() {
            let target = match self.ring.filter(|_| self.plan.shares_ram) {
                Some(ring) => {
                    let start = self.device.host_bytes(ring).expect("it computes in RAM");
                    Target::new(start, self.plan.rings.device)
                }
                None => {
                    let ring = self.host_ring.insert(AlignedBuffer::new(self.plan.rings.host)?);
                    Target::of(ring)
                }
            };
            let reader = Reader::start(source, self.config.readers).map_err(ExecError::NoThread)?;
            let overlap = self.config.overlap;
            self.streams = Some(Streams::start(&self.plan, reader, target, overlap));
        }
        for step in prologue(&self.plan) {
            let Step::Upload { stream, .. } = step else { continue };
            self.upload(stream, 0)?;
        }
        Ok(())
    }
}

/// Where streams come from: what was lent, or else the model's own files.
fn source(
    files: &Arc<ModelFiles>,
    resources: &Resources,
) -> Result<Arc<dyn WeightSource>, ExecError> {
    match &resources.weights {
        Some(source) => Ok(Arc::clone(source)),
        None => Ok(Arc::new(FileWeights::new(Arc::clone(files), IoControl::default())?)),
    }
}

/// The configuration as it is meant: a device that computes in RAM is the host already.
fn attending(config: ExecutorConfig, shares_ram: bool) -> Result<ExecutorConfig, ExecError> {
    let host_attention = config.host_attention && !shares_ram;
    if host_attention && config.cache_homes.iter().any(|&home| home != Tier::Ram) {
        return Err(ExecError::CacheNotInRam);
    }
    Ok(ExecutorConfig { host_attention, ..config })
}

/// Loads what is resident, makes views of what streams.
fn load(
    device: &mut dyn Device,
    files: &ModelFiles,
    plan: &StreamPlan,
    ring: Option<Buffer>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(Vec<LayerWeights>, HeadWeights), ExecError> {
    let count = files.spec().layers.len();
    let mut loader = Loader { files, device, plan, ring, bytes: &mut Vec::new() };
    let mut layers = Vec::with_capacity(count);
    for (index, parts) in plan.parts[..2 * count].chunks_exact(2).enumerate() {
        progress(index, count + 1);
        layers.push(loader.layer(index, &parts[0], &parts[1])?);
    }
    progress(count, count + 1);
    Ok((layers, loader.head()?))
}

/// Whether what is at home in RAM lies where the device copies from by itself: unless that was measured to be
/// the slower way.
fn copies_by_itself(resources: &Resources) -> bool {
    resources.profile.as_ref().is_none_or(|profile| profile.copies_by_itself)
}

/// Memory in RAM from which the device copies by itself, if it is to.
fn reached(
    device: &mut dyn Device,
    reaches: bool,
    bytes: usize,
    what: &str,
) -> Result<Option<Buffer>, ExecError> {
    if reaches { Ok(device.alloc_host(bytes, what)?) } else { Ok(None) }
}

/// Reads the streams that live in RAM.
fn load_ram(
    device: &mut dyn Device,
    plan: &StreamPlan,
    source: &dyn WeightSource,
    reaches: bool,
) -> Result<HashMap<usize, InRam>, ExecError> {
    let mut in_ram = HashMap::new();
    for (index, stream) in plan.streams.iter().enumerate().filter(|(_, s)| s.home == Tier::Ram) {
        let mut bytes = AlignedBuffer::new(stream.bytes)?;
        source.read_segment(stream.tensor, stream.index, &mut bytes)?;
        let home = match reached(device, reaches, stream.bytes, "weights in RAM")? {
            Some(buffer) => {
                device.write(buffer, 0, &bytes)?;
                InRam::Reached(buffer)
            }
            None => InRam::Bytes(bytes),
        };
        in_ram.insert(index, home);
    }
    Ok(in_ram)
}

/// The caches that live on the device.
fn caches(
    device: &mut dyn Device,
    spec: &ModelSpec,
    config: &ExecutorConfig,
) -> Result<Vec<Option<Buffer>>, ExecError> {
    let (pages, bytes_max) = (config.pages, device.info().buffer_bytes_max);
    let mut caches = Vec::new();
    for (index, layer) in spec.layers.iter().enumerate() {
        if config.cache_home(index) != Tier::Device {
            caches.push(None);
            continue;
        }
        let bytes = (pages * layer.cache(config.kv_format).page_bytes()) as u64;
        if bytes > bytes_max {
            let device = device.info().name.clone();
            return Err(ExecError::CacheTooLarge { pages, bytes, bytes_max, device });
        }
        caches.push(Some(device.alloc(bytes as usize, "KV cache")?));
    }
    Ok(caches)
}

/// What brings the pages of the other caches to the device, unless the host attends to them.
fn pager(
    device: &mut dyn Device,
    spec: &ModelSpec,
    config: &ExecutorConfig,
    resources: &Resources,
    shares_ram: bool,
) -> Result<Option<Pager>, ExecError> {
    let format = config.kv_format;
    let page_bytes = spec.layers.iter().map(|layer| layer.cache(format).page_bytes());
    let page_bytes: Vec<usize> = page_bytes.collect();
    let mut homes = Vec::new();
    let mut spilled = 0;
    for (layer, &bytes) in page_bytes.iter().enumerate() {
        homes.push(match config.cache_home(layer) {
            _ if config.host_attention => None,
            Tier::Device => None,
            Tier::Ram => {
                let all = config.pages * bytes;
                let reaches = copies_by_itself(resources);
                Some(match reached(device, reaches, all, "cache in RAM")? {
                    Some(buffer) => Home::Reached(buffer),
                    None => Home::Ram(AlignedBuffer::new(all)?),
                })
            }
            Tier::Disk => {
                let first = spilled;
                spilled += (config.pages * stride(bytes)) as u64;
                Some(Home::File { first, sums: vec![0; config.pages] })
            }
        });
    }
    if homes.iter().all(Option::is_none) {
        return Ok(None);
    }
    let spill = match spilled {
        0 => None,
        bytes => {
            let control = resources.spill_control.clone();
            Some(Arc::new(SpillFile::create(&resources.spill_folder, bytes, control)?))
        }
    };
    let mut pager =
        Pager::start(device, page_bytes, config.window_pages, homes, spill, shares_ram)?;
    pager.poison = resources.poison;
    Ok(Some(pager))
}
