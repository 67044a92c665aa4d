//! `forebay run`.

use super::args::RunArgs;
use super::engine::Model;
use super::exit::{DONE, FAILED_REQUESTS, INTERRUPTED};
use super::explain::{self, Facts};
use super::flags::SamplingArgs;
use super::prepare::Setup;
use super::progress::Display;
use super::replan::Replanner;
use super::{attention, draft_said, interrupt, kv, log, memory, outputs, planning};
use crate::backend::DeviceInfo;
use crate::job::{
    Clocks, Defaults, Input, InputFormat, Job, JobError, Manifest, MovedBytes, Outcome, Output,
    OutputOptions, ParseConfig, Parser, PeakBytes, Placement, Progress, RequestCounts, Seconds,
    Summary, Survey, TokensPerSecond, survey, write_trace,
};
use crate::sample::SamplingParams;
use serde_json::{Map, Value, json};
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Answers a file of prompts.
pub(super) fn run(args: &RunArgs, quiet: bool) -> anyhow::Result<u8> {
    let started = Instant::now();
    let stop = interrupt::watch(interrupted(args));
    let format = InputFormat::from_name(&args.input_format).unwrap_or(InputFormat::Auto);
    let input = Input::open(&args.input, format)?;
    warn_if_empty(&input);
    let model = Model::open(&args.model.model)?;
    outputs::check_run(args, &model)?;
    let mut setup = Setup::new(&args.engine, &args.memory, &model, quiet)?;
    setup.trace = args.trace.is_some();
    let context_len = setup.context_len;
    let resumed = if args.overwrite { None } else { kv::recorded(&args.output) };
    setup.kv_format = kv::resolve(&setup, resumed)?;
    let defaults = defaults(&args.sampling);
    let config = parse_config(&input, &model, &args.model.model, defaults.clone());
    let encoder = &model.tokenizer;
    // What is left to do after so many answers: most of what is answered comes first in the file.
    let surveyed = |answered: usize| -> anyhow::Result<Survey> {
        let survey = survey(&input, config.clone(), encoder, context_len)?;
        let survey = survey.map(|survey| survey.after(answered));
        let survey = survey.filter(|survey| !survey.requests.is_empty());
        let greedy = planning::greedy(args.sampling.temperature);
        Ok(survey.unwrap_or_else(|| planning::unknown(context_len, greedy)))
    };
    let mut device = setup.open_device()?;
    let resumed = if args.overwrite { None } else { attention::recorded(&args.output) };
    setup.host_attention = attention::resolve(&setup, device.as_mut(), resumed, || surveyed(0))?;
    let info = device.info().clone();
    let settings = settings(&defaults, &setup);
    let manifest = manifest(&input, &model, &info, &settings);
    let options = OutputOptions {
        overwrite: args.overwrite,
        retry_errors: args.retry_errors,
        ordered: args.ordered,
    };
    let output = Output::open(&args.output, &input, &manifest, options)?;
    let (ok, failed) = output.resumed();
    if !quiet {
        say_start(&model, &info, ok + failed);
    }
    let draft = setup.draft.as_ref().map_or(String::new(), |draft| draft.name().to_string());
    let report = Report { args, model: &model, info, settings, draft, started, quiet };
    let (total, done) = (output.requests(), ok + failed);
    let progress = Progress { total, done, failed, resumed: done, ..Progress::default() };
    if output.is_complete() {
        output.finish(true)?;
        return report.close(&Outcome { progress, interrupted: false }, started, None);
    }
    let survey = surveyed(done as usize)?;
    if stop.load(Ordering::Relaxed) {
        return report.close(&Outcome { progress, interrupted: true }, started, None);
    }
    let mut display = Display::new(quiet);
    let ready = setup.ready(device, &survey, &mut display)?;
    if !quiet {
        say_plan(&setup, &ready.planned);
    }
    let mut worker = Replanner::new(&setup, &survey, encoder, ready);
    let parser = Parser::new(config);
    let job = Job { input, parser, output, encoder, model: &model.name, stop };
    let loaded = Instant::now();
    let outcome = job.run(&mut worker, &mut |progress| display.update(progress))?;
    drop(display);
    worker.learn_trees();
    setup.draft.iter().for_each(|draft| draft.keep());
    let traced = trace(args, &worker);
    let code = report.close(&outcome, loaded, Some(&Facts(&worker)))?;
    Ok(traced.map(|()| code)?)
}

/// What the first signal is answered with.
fn interrupted(args: &RunArgs) -> &'static str {
    // What is not a file now, and is one at the end, was made by this run.
    let is_file = |path: &str| path != "-" && std::fs::metadata(path).map_or(true, |m| m.is_file());
    match (is_file(&args.input) && is_file(&args.output), args.overwrite) {
        (false, _) => "forebay: interrupted; finishing what is in flight. Again to stop at once.",
        (true, true) => {
            "forebay: interrupted; finishing what is in flight. Again to stop at once; the same \
             command without --overwrite resumes."
        }
        (true, false) => {
            "forebay: interrupted; finishing what is in flight. Again to stop at once; the same \
             command resumes."
        }
    }
}

fn warn_if_empty(input: &Input) {
    if input.digest().is_some_and(|digest| digest.requests == 0) {
        tracing::warn!("{}: there is no prompt in it", input.name());
    }
}

/// Writes the trace, if there is to be one.
fn trace(args: &RunArgs, worker: &Replanner<'_>) -> Result<(), JobError> {
    let Some(path) = &args.trace else { return Ok(()) };
    let events = worker.engine().executor().trace().iter();
    write_trace(path, events.map(|e| (&*e.name, e.track, e.start, e.duration, e.pass)))
}

/// Says what answers, and how much is answered already.
fn say_start(model: &Model, info: &DeviceInfo, answered: u64) {
    log::say(&format!("forebay: {} on {} ({})", model.name, info.name, info.kind));
    if answered > 0 {
        log::say(&format!("forebay: resuming; {answered} requests are answered"));
    }
}

/// Says what was planned, and why there are no draft trees where there could be.
fn say_plan(setup: &Setup<'_>, planned: &planning::Planned) {
    log::say(&format!("forebay: {}", explain::line(planned)));
    if setup.memory.plan.is_none() {
        setup.draft.iter().for_each(|draft| draft.explain_off(planned));
    }
}

fn parse_config(input: &Input, model: &Model, asked: &str, defaults: Defaults) -> ParseConfig {
    let spec = model.files.spec();
    ParseConfig {
        format: input.format(),
        defaults,
        vocab: spec.vocab,
        model_names: vec![model.name.clone(), asked.to_string(), spec.name.clone()],
    }
}

pub(super) fn defaults(args: &SamplingArgs) -> Defaults {
    Defaults {
        sampling: SamplingParams {
            temperature: args.temperature,
            top_k: args.top_k as usize,
            top_p: args.top_p,
            min_p: args.min_p,
            repetition_penalty: args.repetition_penalty,
            frequency_penalty: args.frequency_penalty,
            presence_penalty: args.presence_penalty,
            logit_bias: Vec::new(),
            seed: args.seed,
        },
        max_tokens: args.max_tokens,
        stop: args.stop.clone(),
        ignore_eos: args.ignore_eos,
    }
}

/// Settings that answers depend on.
fn settings(defaults: &Defaults, setup: &Setup<'_>) -> Map<String, Value> {
    // The digits that people would write, not those of the nearest f64.
    let number = |value: f32| value.to_string().parse::<f64>().unwrap_or_default();
    let sampling = &defaults.sampling;
    let value = json!({
        "max_model_len": setup.context_len,
        kv::KEY: setup.kv_format.name(),
        attention::KEY: attention::name(setup.host_attention),
        "max_tokens": defaults.max_tokens,
        "temperature": number(sampling.temperature),
        "top_p": number(sampling.top_p),
        "top_k": sampling.top_k,
        "min_p": number(sampling.min_p),
        "repetition_penalty": number(sampling.repetition_penalty),
        "frequency_penalty": number(sampling.frequency_penalty),
        "presence_penalty": number(sampling.presence_penalty),
        "stop": defaults.stop,
        "ignore_eos": defaults.ignore_eos,
        "seed": sampling.seed,
    });
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn manifest(
    input: &Input,
    model: &Model,
    device: &DeviceInfo,
    settings: &Map<String, Value>,
) -> Manifest {
    let mut manifest = Manifest::default();
    manifest.depends_on("forebay", env!("CARGO_PKG_VERSION"));
    manifest.depends_on("model", model.files.fingerprint());
    if let Some(tokenizer) = &model.tokenizer_checksum {
        manifest.depends_on("tokenizer", tokenizer.clone());
    }
    manifest.depends_on("input_sha256", input.digest().map(|digest| digest.sha256.clone()));
    manifest.depends_on("input_bytes", input.digest().map(|digest| digest.bytes));
    manifest.depends_on("input_format", input.format().name());
    // Devices round differently, so that ids may differ between them.
    manifest.depends_on("device_kind", device.kind.to_string());
    manifest.depends_on("device", device.name.clone());
    for (key, value) in settings {
        manifest.depends_on(key, value.clone());
    }
    manifest.note("model_name", model.name.clone());
    manifest.note("model_path", model.files.path().display().to_string());
    manifest.note("input", input.name());
    manifest.note("driver", device.driver.clone());
    manifest
}

/// What is said at the end.
struct Report<'a> {
    args: &'a RunArgs,
    model: &'a Model,
    info: DeviceInfo,
    settings: Map<String, Value>,
    /// Name of what grows draft trees.
    draft: String,
    started: Instant,
    quiet: bool,
}

impl Report<'_> {
    /// Writes the summary; returns the exit code.
    fn close(
        &self,
        outcome: &Outcome,
        loaded: Instant,
        facts: Option<&Facts<'_>>,
    ) -> anyhow::Result<u8> {
        let mut summary = self.summary(outcome, loaded);
        if let Some(facts) = facts {
            facts.fill(&mut summary);
            let trees = facts.trees();
            summary.speculation = trees.map(|trees| draft_said::summary(trees, &self.draft));
        }
        if !self.quiet {
            log::say(&format!("forebay: {summary}"));
            if let Some(facts) = facts {
                log::say(facts.text(&summary).trim_end());
                if let Some(trees) = facts.trees() {
                    log::say(&draft_said::text(trees, &self.draft));
                }
            }
        }
        if let Some(path) = &self.args.summary {
            summary.store(path)?;
        }
        Ok(match outcome {
            Outcome { interrupted: true, .. } => INTERRUPTED,
            Outcome { progress, .. } if progress.failed > 0 => FAILED_REQUESTS,
            _ => DONE,
        })
    }

    fn summary(&self, outcome: &Outcome, loaded: Instant) -> Summary {
        let progress = &outcome.progress;
        let counters = &progress.counters;
        let seconds = Seconds {
            load: (loaded - self.started).as_secs_f64(),
            prefill: counters.prefill.as_secs_f64(),
            decode: counters.decode.as_secs_f64(),
            total: self.started.elapsed().as_secs_f64(),
        };
        let (prompt, generated) = (counters.prompt_tokens, counters.generated_tokens);
        let map = |value: Value| value.as_object().cloned().unwrap_or_default();
        let mut settings = self.settings.clone();
        settings.extend(map(json!({
            "input": self.args.input,
            "output": self.args.output,
            "threads": self.args.engine.threads,
        })));
        Summary {
            requests: RequestCounts {
                total: progress.done,
                ok: progress.done - progress.failed,
                failed: progress.failed,
                resumed: progress.resumed,
            },
            interrupted: outcome.interrupted,
            prompt_tokens: prompt,
            generated_tokens: generated,
            passes: counters.passes,
            seconds,
            tokens_per_second: TokensPerSecond::of(prompt, generated, seconds),
            clocks: Clocks::default(),
            placement: Placement::default(),
            moved_bytes: MovedBytes::default(),
            speculation: None,
            bottleneck: None,
            bottleneck_fraction: None,
            peak_bytes: PeakBytes { device: 0, ram: memory::resident_bytes_peak() },
            device: map(json!({
                "name": self.info.name,
                "kind": self.info.kind.to_string(),
                "driver": self.info.driver,
            })),
            model: map(json!({
                "name": self.model.name,
                "path": self.model.files.path().display().to_string(),
                "architecture": self.model.files.spec().architecture,
                "fingerprint": self.model.files.fingerprint(),
                "bytes": self.model.files.total_bytes(),
            })),
            versions: map(json!({
                "forebay": env!("CARGO_PKG_VERSION"),
                "os": std::env::consts::OS,
                "arch": std::env::consts::ARCH,
            })),
            settings,
        }
    }
}
