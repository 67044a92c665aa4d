//! `forebay bench`: jobs of one length each, as fast as they go.

use super::args::BenchArgs;
use super::bench_rows::{Case, Format, Row, Sample, Subject};
use super::engine::Model;
use super::exit::{CliError, DONE, INTERRUPTED};
use super::kv_loss::TEXT;
use super::prepare::{Ready, Setup};
use super::progress::Display;
use super::{attention, explain, interrupt, kv, log, shell};
use crate::generate::{Engine, Request};
use crate::job::{Lengths, Survey};
use crate::sample::SamplingParams;
use crate::tokenizer::Special;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

/// Most combinations of lengths and requests.
const CASES_MAX: usize = 1000;

/// Output tokens of the job that warms up.
const WARM_UP_TOKENS: usize = 4;

/// Measures every combination of prompt length, output length and number of requests.
pub(super) fn bench(args: &BenchArgs, quiet: bool) -> anyhow::Result<u8> {
    let stop = interrupt::watch("forebay: interrupted; telling what was measured");
    let cases = cases(args)?;
    let format = Format::from_name(&args.format).unwrap_or_default();
    let model = Model::open(&args.model.model)?;
    let mut setup = Setup::new(&args.engine, &args.memory, &model, quiet)?;
    setup.kv_format = kv::resolve(&setup, None)?;
    fits_context(&cases, setup.context_len)?;
    let mut device = setup.open_device()?;
    let first = || Ok(survey(cases[0]));
    setup.host_attention = attention::resolve(&setup, device.as_mut(), None, first)?;
    let subject = Subject::new(&model, device.info(), &setup);
    drop(device);
    if !quiet {
        log::say(&format!("forebay: {} on {}", model.name, subject.device));
    }
    let text = model.tokenizer.encode(TEXT, Special::Plain)?;
    let mut bench = Bench { args, setup: &setup, text, stop, rows: Vec::new() };
    let measured = bench.measure_all(&cases, &subject, format);
    // Rows that took an hour are not lost with the one after them.
    if format != Format::Jsonl && (measured.is_ok() || !bench.rows.is_empty()) {
        shell::print(format.text(&subject, &bench.rows)?.as_bytes())?;
    }
    measured?;
    Ok(if stop.load(Ordering::Relaxed) { INTERRUPTED } else { DONE })
}

/// Combinations in the order of llama-batched-bench.
fn cases(args: &BenchArgs) -> Result<Vec<Case>, CliError> {
    let [prompts, outputs, counts] = [&args.prompt, &args.gen_tokens, &args.requests].map(|s| &s.0);
    if prompts.len() * outputs.len() * counts.len() > CASES_MAX {
        return Err(CliError::Usage(format!(
            "more than {CASES_MAX} combinations of -p, -n and -b"
        )));
    }
    let mut cases = Vec::new();
    for &prompt in prompts {
        for &output in outputs {
            for &requests in counts {
                if requests == 0 {
                    return Err(CliError::Usage("-b 0: a job has a request at least".into()));
                }
                // Of both series' zeros nothing is left to measure.
                if prompt > 0 || output > 0 {
                    cases.push(Case { prompt, output, requests });
                }
            }
        }
    }
    if cases.is_empty() {
        let why = "-p 0 -n 0: neither prompts nor output leave anything to measure";
        return Err(CliError::Usage(why.into()));
    }
    Ok(cases)
}

fn fits_context(cases: &[Case], context_len: usize) -> Result<(), CliError> {
    match cases.iter().find(|case| case.positions() > context_len) {
        Some(case) => Err(CliError::Usage(format!(
            "{case} takes {} positions, and a sequence has {context_len}; raise --max-model-len, or lower \
             -p or -n",
            case.positions()
        ))),
        None => Ok(()),
    }
}

fn survey(case: Case) -> Survey {
    let (prompt, output_max) = (case.prompt.max(1), case.output + 1);
    let requests = vec![Lengths { prompt, output_max, fixed: true, count: case.requests }];
    Survey { requests, longest: case.positions(), greedy: 1.0, ..Survey::default() }
}

struct Bench<'a> {
    args: &'a BenchArgs,
    setup: &'a Setup<'a>,
    /// Tokens that prompts are cut from.
    text: Vec<u32>,
    stop: &'static AtomicBool,
    rows: Vec<(Row, SystemTime)>,
}

impl Bench<'_> {
    /// Measures one case after the other, until one fails or the run is interrupted.
    fn measure_all(
        &mut self,
        cases: &[Case],
        subject: &Subject,
        format: Format,
    ) -> anyhow::Result<()> {
        for (index, &case) in cases.iter().enumerate() {
            let started = SystemTime::now();
            let Some(row) = self.measure(case)? else { break };
            if !self.setup.quiet {
                log::say(&format!("{}/{}: {row}", index + 1, cases.len()));
            }
            if format == Format::Jsonl {
                shell::print(format!("{}\n", row.json(subject, started)).as_bytes())?;
            }
            self.rows.push((row, started));
        }
        Ok(())
    }

    /// Plans, loads and runs one job several times; `None` if it was interrupted.
    fn measure(&mut self, case: Case) -> anyhow::Result<Option<Row>> {
        let started = Instant::now();
        let mut display = Display::new(self.setup.quiet);
        let survey = survey(case);
        let ready = self.setup.ready(self.setup.open_device()?, &survey, &mut display)?;
        let Ready { executor, planned, speculation, .. } = ready;
        let load_seconds = started.elapsed().as_secs_f64();
        tracing::debug!("{}", explain::line(&planned));
        let mut engine = Engine::new(executor, &self.setup.model.tokenizer, planned.engine);
        speculation.into_iter().for_each(|speculation| engine.speculate(speculation));
        if !self.args.no_warmup {
            display.note(&format!("{case}: warming up"));
            let short = Case { output: case.output.min(WARM_UP_TOKENS), ..case };
            if self.once(&mut engine, short)?.is_none() {
                return Ok(None);
            }
        }
        let mut samples = Vec::new();
        for repetition in 1..=self.args.repetitions {
            display.note(&format!("{case}: {repetition} of {}", self.args.repetitions));
            match self.once(&mut engine, case)? {
                Some(sample) => samples.push(sample),
                None => return Ok(None),
            }
        }
        let trees = engine.tree_stats().map(|stats| stats.tokens_per_pass());
        Ok(Some(Row { case, planned, load_seconds, samples, trees }))
    }

    /// One job; `None` if it was interrupted.
    fn once(&self, engine: &mut Engine<'_>, case: Case) -> anyhow::Result<Option<Sample>> {
        let (before, read) = (engine.stats(), engine.executor().traffic().read_bytes);
        let start = Instant::now();
        let mut submitted = 0;
        loop {
            while submitted < case.requests && engine.wants_more() {
                engine.submit(self.request(submitted, case))?;
                submitted += 1;
            }
            if engine.is_idle() {
                break;
            }
            engine.step()?;
            if self.stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
        }
        let after = engine.stats();
        Ok(Some(Sample {
            prefill: (after.prefill - before.prefill).as_secs_f64(),
            decode: (after.decode - before.decode).as_secs_f64(),
            total: start.elapsed().as_secs_f64(),
            passes: after.passes - before.passes,
            read_bytes: engine.executor().traffic().read_bytes - read,
        }))
    }

    /// The prompt of each request is another part of the text. A pass over a prompt ends with a token, so
    /// one more than `-n` makes as many passes of output as `-n` says.
    fn request(&self, index: usize, case: Case) -> Request {
        let from = index * 97;
        let token = |at: usize| self.text[(from + at) % self.text.len()];
        Request {
            id: index as u64,
            prompt: (0..case.prompt.max(1)).map(token).collect(),
            sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
            choice: 0,
            max_tokens: case.output + 1,
            stop: Vec::new(),
            ignore_eos: true,
        }
    }
}
