//! Everything between the arguments and the first pass: profile, plan, packed weights, executor.

use super::budget::{Amount, Amounts};
use super::draft::Drafting;
use super::engine::Model;
use super::exit::{CliError, told};
use super::flags::{EngineArgs, MemoryArgs};
use super::planning::{Planned, Question};
use super::progress::Display;
use super::throttle::Throttles;
use super::{device, kv, log, policy, profiles};
use crate::backend::{Device, DeviceError};
use crate::exec::{ExecError, Executor, ExecutorConfig, Resources};
use crate::generate::Speculation;
use crate::job::{ProfileFile, Survey};
use crate::kernel::KvFormat;
use crate::store::{CacheOptions, FileWeights, IoControl, PackedCache, Throttle, WeightSource};
use anyhow::Context;
use bytesize::ByteSize;
use forebay_planner::{HardwareProfile, Pins, Split, Tier};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

/// Times that a plan is made anew after the machine had less memory than it said.
const RETRIES: usize = 5;

/// Most threads that pack weights: more wait for the disk.
const PACKING_THREADS: usize = 4;

/// No smaller part of memory is given up at a time.
const STEP_MIN: u64 = 1 << 20;

/// What is prepared.
pub(super) struct Setup<'a> {
    pub(super) engine: &'a EngineArgs,
    pub(super) memory: &'a MemoryArgs,
    pub(super) model: &'a Model,
    pub(super) context_len: usize,
    pub(super) kv_format: KvFormat,
    pub(super) host_attention: bool,
    /// What grows draft trees, if anything is to.
    pub(super) draft: Option<Rc<Drafting>>,
    pub(super) trace: bool,
    pub(super) quiet: bool,
}

/// An executor, and the plan it follows.
pub(super) struct Ready {
    pub(super) executor: Executor,
    pub(super) planned: Planned,
    pub(super) profile: HardwareProfile,
    pub(super) speculation: Option<Speculation>,
}

impl<'a> Setup<'a> {
    /// Before anything that needs a device is decided.
    pub(super) fn new(
        engine: &'a EngineArgs,
        memory: &'a MemoryArgs,
        model: &'a Model,
        quiet: bool,
    ) -> anyhow::Result<Setup<'a>> {
        let context_len = super::engine::context_len(model.files.spec(), engine.max_model_len)?;
        let (kv_format, host_attention, trace) = (KvFormat::default(), false, false);
        let mut draft = Drafting::open(&engine.draft, model)?;
        if let Some(draft) = &mut draft {
            draft.remember(model);
        }
        Ok(Setup {
            engine,
            memory,
            model,
            context_len,
            kv_format,
            host_attention,
            draft: draft.map(Rc::new),
            trace,
            quiet,
        })
    }
}

/// Whether a device had less memory than it said.
fn is_out_of_memory(error: &anyhow::Error) -> bool {
    let of_device = |error| matches!(error, &ExecError::Device(DeviceError::OutOfMemory { .. }));
    error.downcast_ref::<ExecError>().is_some_and(of_device)
}

impl Setup<'_> {
    /// What grows draft trees, unless it has failed.
    pub(super) fn draft(&self) -> Option<&Drafting> {
        self.draft.as_deref().filter(|draft| draft.failure().is_none())
    }

    /// Whether the plan is to stay: it was given, or its trace is wanted in one piece.
    pub(super) fn is_pinned(&self) -> bool {
        self.memory.plan.is_some() || self.trace
    }

    pub(super) fn open_device(&self) -> anyhow::Result<Box<dyn Device>> {
        device::open(&self.engine.device, self.engine.threads)
    }

    /// Folder of packed weights and cache pages.
    fn folder(&self) -> Result<PathBuf, CliError> {
        self.memory.disk_dir.clone().map_or_else(profiles::own_folder, Ok)
    }

    /// Refuses to run on `device` by the rates of another class of machine.
    fn check_class(&self, profile: &HardwareProfile, device: &dyn Device) -> Result<(), CliError> {
        profiles::check_class(profile, self.memory.profile.as_deref(), device.info())
    }

    /// Rates to plan with, as slow as `--throttle` makes them.
    pub(super) fn profile(&self, device: &mut dyn Device) -> anyhow::Result<HardwareProfile> {
        let folder = self.memory.disk_dir.as_deref();
        if let Some(folder) = folder {
            let made = std::fs::create_dir_all(folder);
            let why = "no such folder can be made; name another";
            made.with_context(|| format!("--disk-dir {}: {why}", folder.display()))?;
        }
        let mut profile = match &self.memory.profile {
            Some(path) => {
                let profile = ProfileFile::load(path)?.profile;
                if !kv::has_rates(&profile, self.kv_format) {
                    return Err(CliError::Usage(format!(
                        "{}: no rates of attention for --kv-format {}; measure that machine again \
                         with `forebay calibrate`",
                        path.display(),
                        self.kv_format
                    ))
                    .into());
                }
                profile
            }
            None => {
                let file = self.model.files.path();
                let (threads, format) = (self.engine.threads, self.kv_format);
                let subject = profiles::Subject::new(device, threads, folder, Some(file))?;
                profiles::profile_for(subject, format, self.quiet)?
            }
        };
        let Throttles { disk, upload } = self.throttles();
        let slow = |rate: &mut f64, bound: Option<u64>| {
            *rate = bound.map_or(*rate, |bound| rate.min(bound as f64));
        };
        slow(&mut profile.disk.read_bytes_per_sec, disk);
        slow(&mut profile.disk.write_bytes_per_sec, disk);
        slow(&mut profile.upload_bytes_per_sec, upload);
        if let Some(draft) = self.draft() {
            draft.look(self, device, &profile)?;
        }
        Ok(profile)
    }

    /// Threads that compute.
    pub(super) fn threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.engine.threads.unwrap_or_else(cores)
    }

    fn throttles(&self) -> Throttles {
        self.memory.throttle.unwrap_or_default()
    }

    /// What is decided on the command line.
    fn pins(&self) -> Pins {
        let mut pins = Pins {
            weights: self.memory.weights.unwrap_or_default(),
            kv: self.memory.kv.unwrap_or_default(),
            batch: self.engine.batch,
            micro_batch: self.engine.micro_batch,
            prefill_chunk: self.engine.prefill_chunk,
            // Decided before: tokens may depend on what attends.
            host_attention: Some(self.host_attention),
            ..Pins::default()
        };
        if let Some(draft) = self.draft() {
            draft.pin(&mut pins);
        }
        pins
    }

    pub(super) fn question<'a>(
        &'a self,
        profile: &'a HardwareProfile,
        survey: &'a Survey,
    ) -> anyhow::Result<Question<'a>> {
        let MemoryArgs { gpu_mem, ram, disk, .. } = *self.memory;
        let (amounts, folder) = (Amounts { gpu_mem, ram, disk }, self.folder()?);
        let (model, pins) = (self.model, self.pins());
        let (context_len, kv_format, threads) =
            (self.context_len, self.kv_format, self.engine.threads);
        let speculation = self.draft().map(|draft| draft.known(survey.greedy));
        Ok(Question {
            speculation,
            model,
            profile,
            survey,
            amounts,
            pins,
            context_len,
            kv_format,
            threads,
            folder,
        })
    }

    /// The plan: the one of `--plan`, or the best.
    pub(super) fn plan(
        &self,
        question: &Question<'_>,
        device: &dyn Device,
        less: Split,
    ) -> anyhow::Result<Planned> {
        let mut asked = question.ask(device)?;
        asked.take_away(less);
        let Some(path) = &self.memory.plan else { return asked.plan(device) };
        asked.predict(device, &policy::load(path, self, &question.pins)?)
    }

    /// Plans, allocates and loads. Where the machine has less memory than it said, a plan for less is
    /// made: its batch is smaller, then more of cache and weights live elsewhere.
    pub(super) fn ready(
        &self,
        mut device: Box<dyn Device>,
        survey: &Survey,
        display: &mut Display,
    ) -> anyhow::Result<Ready> {
        let mut profile = self.profile(device.as_mut())?;
        self.check_class(&profile, device.as_ref())?;
        profile.device = profile.device.with_greedy(survey.greedy);
        let near = profile.near();
        let (mut less, mut step) = (Split::default(), 0);
        for attempt in 0.. {
            let question = self.question(&profile, survey)?;
            let planned =
                self.plan_for_less(&question, device.as_ref(), near, (&mut less, step))?;
            if attempt == 0 {
                self.warn_of_large_draft(&question, &planned, device.as_ref());
            }
            let (info, held) = (device.info().name.clone(), device.memory().bytes);
            let made = self.executor(&question, &planned, &profile, device, display);
            let started = made.and_then(|executor| {
                let speculation = self.speculation((&planned, &executor), &profile, display)?;
                Ok((executor, speculation))
            });
            let error = match started {
                Ok((executor, speculation)) => {
                    return Ok(Ready { executor, planned, profile, speculation });
                }
                Err(error) => error,
            };
            if !is_out_of_memory(&error) || attempt == RETRIES {
                return Err(error);
            }
            step = planned.budgets.on(near).saturating_sub(held) / 8;
            log::say(&format!(
                "forebay: {}; planning again with {} less of {info}'s memory",
                told(&error),
                ByteSize(step).display().iec()
            ));
            device = self.open_device()?;
        }
        unreachable!("the last attempt returns")
    }

    /// Allocates and loads by a plan that was followed before.
    pub(super) fn follow(
        &self,
        planned: Planned,
        profile: &HardwareProfile,
        survey: &Survey,
        display: &mut Display,
    ) -> anyhow::Result<Ready> {
        let question = self.question(profile, survey)?;
        let device = self.open_device()?;
        self.check_class(profile, device.as_ref())?;
        let executor = self.executor(&question, &planned, profile, device, display)?;
        let speculation = self.speculation((&planned, &executor), profile, display)?;
        Ok(Ready { executor, planned, profile: profile.clone(), speculation })
    }

    /// A drafter at work, if the plan wants one.
    fn speculation(
        &self,
        made: (&Planned, &Executor),
        profile: &HardwareProfile,
        display: &mut Display,
    ) -> anyhow::Result<Option<Speculation>> {
        let start = |draft: &Drafting| draft.start(self, made, profile, display);
        self.draft().map_or(Ok(None), start)
    }

    /// Says what a draft that is no smaller than the model is predicted to cost.
    fn warn_of_large_draft(&self, question: &Question<'_>, planned: &Planned, device: &dyn Device) {
        let larger = self.draft.as_ref().and_then(|draft| draft.larger_than(self.model));
        let Some([own, other]) = larger.filter(|_| planned.plan.policy.tree_budget > 0) else {
            return;
        };
        let pins = Pins { tree_budget: Some(0), draft: None, ..question.pins.clone() };
        let without = Question { pins, speculation: None, ..question.clone() };
        let without = without.ask(device).ok().and_then(|asked| asked.plan(device).ok());
        let [own, other] = [own, other].map(|bytes| ByteSize(bytes).display().iec());
        let seconds = planned.plan.seconds();
        let loss = without.map_or(String::new(), |without| {
            format!(": predicted {seconds:.1} s with it, {:.1} s without", without.plan.seconds())
        });
        tracing::warn!("the draft has {own} and the model {other}, which seldom pays{loss}");
    }

    /// A plan for `less` and `step` bytes less; for half the step, and so on, where nothing fits that.
    fn plan_for_less(
        &self,
        question: &Question<'_>,
        device: &dyn Device,
        near: Tier,
        (less, mut step): (&mut Split, u64),
    ) -> anyhow::Result<Planned> {
        loop {
            let mut tried = *less;
            *tried.on_mut(near) += step;
            let found = self.plan(question, device, tried);
            if found.is_ok() || step <= STEP_MIN {
                *less = tried;
                return found;
            }
            step /= 2;
        }
    }

    fn executor(
        &self,
        question: &Question<'_>,
        planned: &Planned,
        profile: &HardwareProfile,
        mut device: Box<dyn Device>,
        display: &mut Display,
    ) -> anyhow::Result<Executor> {
        let files = Arc::clone(&self.model.files);
        let throttle = |rate: Option<u64>| rate.map(|rate| Arc::new(Throttle::new(rate)));
        let disk = IoControl {
            throttle: throttle(self.throttles().disk),
            buffered: !profile.disk.direct,
            ..IoControl::default()
        };
        let streams = planned.plan.policy.weights.disk > 0;
        let weights = match streams {
            true => Some(self.weights(question, planned, &disk, display)?),
            false => None,
        };
        device.limit(planned.device_limit(device.memory().bytes));
        let resources = Resources {
            weights,
            spill_folder: question.folder.clone(),
            spill_control: disk,
            host_threads: self.engine.threads,
            upload_throttle: throttle(self.throttles().upload),
            trace: self.trace,
            profile: Some(profile.clone()),
            ..Resources::default()
        };
        let bytes = ByteSize(files.total_bytes()).display().iec().to_string();
        let mut progress = |done: usize, parts: usize| {
            display.note(&format!("loading {} ({bytes}): {done}/{parts}", self.model.name));
        };
        let config = ExecutorConfig { overlap: self.memory.overlap, ..planned.executor.clone() };
        Ok(Executor::with(device, files, config, resources, &mut progress)?)
    }

    /// Where streams come from: a file of packed weights, made once; or the model's own files, packed on
    /// every read, where there is no room for one.
    fn weights(
        &self,
        question: &Question<'_>,
        planned: &Planned,
        reading: &IoControl,
        display: &mut Display,
    ) -> anyhow::Result<Arc<dyn WeightSource>> {
        let files = &self.model.files;
        let used = planned.plan.memory.total().disk;
        let held = match self.memory.disk {
            Amount::Bytes(_) => 0,
            // A budget of what is free: what an earlier build holds is not, and is there for this one.
            Amount::Auto | Amount::Part(_) => PackedCache::held_bytes(&question.folder, files),
        };
        let options = CacheOptions {
            bytes_max: planned.budgets.disk.saturating_add(held).saturating_sub(used),
            threads: self.threads().min(PACKING_THREADS),
            reading: reading.clone(),
            building: IoControl::default(),
        };
        let needed = PackedCache::needed_bytes(files);
        if needed > options.bytes_max {
            // One that is there takes no more.
            let there = PackedCache::open(Arc::clone(files), &question.folder, reading.clone());
            if let Ok(cache) = there {
                return Ok(Arc::new(cache));
            }
            tracing::warn!(
                "weights are packed anew on every read: {} of disk would hold them packed, --disk \
                 leaves {}",
                ByteSize(needed).display().iec(),
                ByteSize(options.bytes_max).display().iec()
            );
            return Ok(Arc::new(FileWeights::new(Arc::clone(files), reading.clone())?));
        }
        let mut progress = |done: u64, all: u64| {
            let percent = 100 * done / all.max(1);
            display.note(&format!("packing weights once, for streaming: {percent} %"));
        };
        let cache = PackedCache::open_or_build(
            Arc::clone(files),
            &question.folder,
            &options,
            &mut progress,
        );
        Ok(Arc::new(cache.context("packed weights")?))
    }
}
