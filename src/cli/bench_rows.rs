//! What `forebay bench` measured, in the columns of llama-batched-bench and under the keys of llama-bench
//! where they apply.

use super::engine::Model;
use super::explain::{size, tier_bytes, tiers};
use super::inspect::parameters;
use super::planning::Planned;
use super::prepare::Setup;
use crate::backend::DeviceInfo;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Map, Value, json};
use std::fmt;
use std::time::SystemTime;

/// How rows are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Format {
    #[default]
    Markdown,
    Csv,
    Json,
    Jsonl,
}

impl Format {
    /// Names on the command line.
    pub(super) const NAMES: [&str; 4] = ["md", "csv", "json", "jsonl"];

    pub(super) fn from_name(name: &str) -> Option<Format> {
        let all = [Format::Markdown, Format::Csv, Format::Json, Format::Jsonl];
        Format::NAMES.iter().zip(all).find(|(own, _)| **own == name).map(|(_, format)| format)
    }

    /// All rows.
    pub(super) fn text(
        self,
        subject: &Subject,
        rows: &[(Row, SystemTime)],
    ) -> anyhow::Result<String> {
        let objects = || rows.iter().map(|(row, started)| row.json(subject, *started));
        Ok(match self {
            Format::Markdown => format!("{}\n", markdown(subject, rows)),
            Format::Csv => csv(objects())?,
            Format::Json => format!("{:#}\n", Value::Array(objects().collect())),
            Format::Jsonl => objects().map(|object| format!("{object}\n")).collect(),
        })
    }
}

/// A job: so many requests of these lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Case {
    /// Prompt tokens of each.
    pub(super) prompt: usize,
    /// Passes of output, a token each without draft trees.
    pub(super) output: usize,
    pub(super) requests: usize,
}

impl Case {
    /// Positions that a sequence takes.
    pub(super) fn positions(self) -> usize {
        self.prompt.max(1) + self.output + 1
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pp{} tg{} b{}", self.prompt, self.output, self.requests)
    }
}

/// Seconds of one repetition, and what it took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sample {
    pub(super) prefill: f64,
    pub(super) decode: f64,
    pub(super) total: f64,
    pub(super) passes: u64,
    pub(super) read_bytes: u64,
}

/// What rows have in common.
pub(super) struct Subject {
    pub(super) device: String,
    common: Map<String, Value>,
    model: String,
    size: u64,
}

impl Subject {
    pub(super) fn new(model: &Model, device: &DeviceInfo, setup: &Setup<'_>) -> Subject {
        let spec = model.files.spec();
        let size = model.files.total_bytes();
        let on_cpu = device.computes_in_ram();
        let format = setup.kv_format;
        let common = json!({
            "forebay": env!("CARGO_PKG_VERSION"),
            "cpu_info": if on_cpu { device.name.as_str() } else { "" },
            "gpu_info": if on_cpu { "" } else { device.name.as_str() },
            "backends": if on_cpu { "CPU" } else { "wgpu" },
            "driver": device.driver,
            "model_filename": model.files.path().display().to_string(),
            "model_type": spec.architecture.to_string(),
            "model_size": size,
            "model_n_params": parameters(model.files.tensors()),
            "n_threads": setup.threads(),
            "type_k": element(format.key_bits()),
            "type_v": element(format.value_bits()),
            "draft": setup.draft.as_ref().map(|draft| draft.name()),
        });
        let common = common.as_object().cloned().unwrap_or_default();
        Subject { device: device.name.clone(), common, model: model.name.clone(), size }
    }
}

/// Name of a cache's elements.
fn element(bits: usize) -> String {
    if bits == 16 { "f16".to_string() } else { format!("q{bits}") }
}

/// One job, measured.
pub(super) struct Row {
    pub(super) case: Case,
    pub(super) planned: Planned,
    pub(super) load_seconds: f64,
    /// One for each repetition; not empty.
    pub(super) samples: Vec<Sample>,
    /// Tokens of a sequence in a pass with draft trees.
    pub(super) trees: Option<f64>,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, spread) = self.statistics(|sample| sample.total);
        let planned = self.planned.plan.seconds();
        write!(f, "{}: {seconds:.2} ± {spread:.2} s, predicted {planned:.2} s", self.case)
    }
}

impl Row {
    /// Mean and standard deviation over the repetitions.
    fn statistics(&self, value: impl Fn(&Sample) -> f64) -> (f64, f64) {
        let count = self.samples.len() as f64;
        let mean = self.samples.iter().map(&value).sum::<f64>() / count;
        let squares = self.samples.iter().map(|sample| (value(sample) - mean).powi(2));
        let spread = if count > 1.0 { (squares.sum::<f64>() / (count - 1.0)).sqrt() } else { 0.0 };
        (mean, spread)
    }

    /// Tokens of prompts, of output, and of both.
    fn tokens(&self) -> [f64; 3] {
        let Case { prompt, output, requests } = self.case;
        [prompt, output, prompt + output].map(|each| (each * requests) as f64)
    }

    /// The row as an object, in the keys of llama-bench, those of llama-batched-bench, and our own.
    pub(super) fn json(&self, subject: &Subject, started: SystemTime) -> Value {
        let Case { prompt, output, requests } = self.case;
        let [prompts, outputs, both] = self.tokens();
        let (plan, policy) = (&self.planned.plan, &self.planned.plan.policy);
        let nanoseconds = |seconds: f64| (seconds * 1e9).round() as u64;
        let [t_pp, t_tg] =
            [self.statistics(|sample| sample.prefill).0, self.statistics(|sample| sample.decode).0];
        let (total, total_spread) = self.statistics(|sample| sample.total);
        let (rate, rate_spread) = self.statistics(|sample| both / sample.total);
        let samples = |value: &dyn Fn(&Sample) -> Value| -> Value {
            self.samples.iter().map(value).collect()
        };
        let own = json!({
            "n_batch": policy.prefill_chunk,
            "n_ubatch": policy.micro_batch,
            "n_prompt": prompt,
            "n_gen": output,
            "n_depth": 0,
            "test_time": humantime::format_rfc3339_seconds(started).to_string(),
            "avg_ns": nanoseconds(total),
            "stddev_ns": nanoseconds(total_spread),
            "avg_ts": rate,
            "stddev_ts": rate_spread,
            "samples_ns": samples(&|sample| nanoseconds(sample.total).into()),
            "samples_ts": samples(&|sample| (both / sample.total).into()),
            "pp": prompt,
            "tg": output,
            "pl": requests,
            "n_kv": both as u64,
            "t_pp": t_pp,
            "speed_pp": per_second(prompts, t_pp),
            "t_tg": t_tg,
            "speed_tg": per_second(outputs, t_tg),
            "t": total,
            "speed": rate,
            "batch": policy.batch,
            "tree_budget": policy.tree_budget,
            "tokens_per_pass": self.trees,
            "passes": self.samples.last().map(|sample| sample.passes),
            "read_bytes": self.samples.last().map(|sample| sample.read_bytes),
            "load_seconds": self.load_seconds,
            "predicted_seconds": plan.seconds(),
            "weights_bytes": tier_bytes(policy.weights),
            "kv_bytes": tier_bytes(policy.kv),
        });
        let mut object = subject.common.clone();
        object.extend(own.as_object().cloned().unwrap_or_default());
        Value::Object(object)
    }
}

fn per_second(tokens: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { tokens / seconds } else { 0.0 }
}

/// The table of llama-batched-bench, with what the plan said beside it.
fn markdown(subject: &Subject, rows: &[(Row, SystemTime)]) -> Table {
    let mut table = Table::new();
    let header = [
        "model", "size", "PP", "TG", "B", "N_KV", "T_PP s", "S_PP t/s", "T_TG s", "S_TG t/s",
        "T s", "S t/s", "plan s", "batch", "trees", "weights",
    ];
    table.load_style(presets::ASCII_MARKDOWN).set_header(header);
    for (row, _) in rows {
        let Case { prompt, output, requests } = row.case;
        let [prompts, outputs, both] = row.tokens();
        let t_pp = row.statistics(|sample| sample.prefill).0;
        let t_tg = row.statistics(|sample| sample.decode).0;
        let (rate, spread) = row.statistics(|sample| both / sample.total);
        let policy = &row.planned.plan.policy;
        let trees = match row.trees {
            Some(tokens) => format!("{} ({tokens:.2} t/pass)", policy.tree_budget),
            None => "-".to_string(),
        };
        table.add_row([
            subject.model.clone(),
            size(subject.size),
            prompt.to_string(),
            output.to_string(),
            requests.to_string(),
            format!("{both:.0}"),
            format!("{t_pp:.3}"),
            format!("{:.2}", per_second(prompts, t_pp)),
            format!("{t_tg:.3}"),
            format!("{:.2}", per_second(outputs, t_tg)),
            format!("{:.3}", row.statistics(|sample| sample.total).0),
            format!("{rate:.2} ± {spread:.2}"),
            format!("{:.3}", row.planned.plan.seconds()),
            policy.batch.to_string(),
            trees,
            tiers(tier_bytes(policy.weights)),
        ]);
    }
    let numbers = 2..header.len() - 2;
    for column in table.column_iter_mut().skip(numbers.start).take(numbers.len()) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Every value quoted, as llama-bench does.
fn csv(objects: impl Iterator<Item = Value>) -> anyhow::Result<String> {
    let mut writer =
        csv::WriterBuilder::new().quote_style(csv::QuoteStyle::Always).from_writer(Vec::new());
    for (index, object) in objects.enumerate() {
        let object = object.as_object().cloned().unwrap_or_default();
        if index == 0 {
            writer.write_record(object.keys())?;
        }
        writer.write_record(object.values().map(|value| match value {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        }))?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}
