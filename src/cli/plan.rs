//! `forebay plan`.

use super::args::PlanArgs;
use super::budget::Amount;
use super::engine::Model;
use super::exit::{CliError, DONE};
use super::explain::{resource, size, speculation, tier, tier_bytes, tiers};
use super::planning::Planned;
use super::prepare::Setup;
use super::run::defaults;
use super::sweep::{Axis, Sweep};
use super::{attention, kv, outputs, shell};
use crate::backend::Device;
use crate::job::{
    Input, InputFormat, Lengths, ParseConfig, PolicyFile, Survey, survey as survey_of,
};
use comfy_table::{CellAlignment, Table, presets};
use forebay_planner::{HardwareProfile, Memory, OfBudget, Split, Tier};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Shows where everything would live, how long the job would take, and why.
pub(super) fn plan(args: &PlanArgs, quiet: bool) -> anyhow::Result<u8> {
    if args.sweep.is_some() && args.emit.is_some() {
        let why = "a sweep has a policy for each row; leave one of them out";
        return Err(CliError::Usage(format!("--sweep and --emit: {why}")).into());
    }
    let model = Model::open(&args.model.model)?;
    outputs::check_plan(args, &model)?;
    let mut setup = Setup::new(&args.engine, &args.memory, &model, quiet)?;
    setup.kv_format = kv::resolve(&setup, None)?;
    let survey = survey(args, &model, setup.context_len)?;
    let mut device = setup.open_device()?;
    let surveyed = || Ok(survey.clone());
    setup.host_attention = attention::resolve(&setup, device.as_mut(), None, surveyed)?;
    let mut profile = setup.profile(device.as_mut())?;
    profile.device = profile.device.with_greedy(survey.greedy);
    if let Some(sweep) = &args.sweep {
        let rows = tabulate(&setup, &profile, device.as_ref(), sweep, &survey)?;
        let text = if args.json {
            format!("{:#}\n", rows_json(sweep, &rows))
        } else {
            rows_text(sweep, &rows)
        };
        shell::print(text.as_bytes())?;
        return Ok(DONE);
    }
    let question = setup.question(&profile, &survey)?;
    let planned = setup.plan(&question, device.as_ref(), Split::default())?;
    if let Some(path) = &args.emit {
        let policy = planned.plan.policy.clone();
        PolicyFile { model: model.files.fingerprint(), policy }.store(path)?;
    }
    let tokens = generated(&survey);
    let text = match args.json {
        true => format!("{:#}\n", plan_json(&planned, tokens)),
        false => plan_text(&planned, &model, device.as_ref(), tokens),
    };
    shell::print(text.as_bytes())?;
    Ok(DONE)
}

fn survey(args: &PlanArgs, model: &Model, context_len: usize) -> anyhow::Result<Survey> {
    let Some(path) = &args.input else {
        let (prompt, output_max) = lengths(args, context_len)?;
        let (fixed, count) = (true, args.requests);
        let requests = vec![Lengths { prompt, output_max, fixed, count }];
        let (longest, greedy) =
            (prompt + output_max, super::planning::greedy(args.sampling.temperature));
        return Ok(Survey { requests, longest, greedy, ..Survey::default() });
    };
    let input = Input::open(path, InputFormat::Auto)?;
    let config = ParseConfig {
        format: input.format(),
        defaults: defaults(&args.sampling),
        vocab: model.files.spec().vocab,
        model_names: Vec::new(),
    };
    match survey_of(&input, config, &model.tokenizer, context_len)? {
        Some(survey) if !survey.requests.is_empty() => Ok(survey),
        Some(_) => Err(CliError::Usage(format!("{path}: no request in it to plan for")).into()),
        None => Err(CliError::Usage(format!(
            "{}: a pipe can be read only once, by the job; name a file to plan for, or leave -i out and \
             give --prompt-len, --gen-len and --requests",
            input.name()
        ))
        .into()),
    }
}

/// Tokens of prompt and output of requests that no file tells of.
fn lengths(args: &PlanArgs, context_len: usize) -> Result<(usize, usize), CliError> {
    let room = |other: Option<usize>| context_len.saturating_sub(other.unwrap_or(1)).max(1);
    let prompt = args.prompt_len.unwrap_or(512.min(room(args.gen_len)));
    let output = args.gen_len.unwrap_or(128.min(room(Some(prompt))));
    let both = prompt.saturating_add(output);
    if both > context_len {
        return Err(CliError::Usage(format!(
            "--prompt-len {prompt} and --gen-len {output} take {both} positions, and a sequence has \
             {context_len}; raise --max-model-len, or lower one of them"
        )));
    }
    Ok((prompt, output))
}

/// Tokens that the planned workload generates.
fn generated(survey: &Survey) -> f64 {
    super::planning::workload(survey).tokens().1 as f64
}

fn plan_text(planned: &Planned, model: &Model, device: &dyn Device, tokens: f64) -> String {
    let plan = &planned.plan;
    let policy = &plan.policy;
    let mut text = String::new();
    let mut line = |line: String| writeln!(text, "{line}").expect("writing to a string");
    line(format!("{} on {}", model.name, device.info().name));
    line(memory_table(&plan.memory, planned.budgets, planned.shares_ram).to_string());
    line(format!(
        "batch {}, micro-batch {}, prefill chunk {}, {} cache pages ({}){}",
        policy.batch,
        policy.micro_batch,
        policy.prefill_chunk,
        policy.pages,
        policy.kv_format,
        if policy.host_attention { ", attention on the host" } else { "" }
    ));
    let seconds = plan.seconds();
    line(format!(
        "predicted: {seconds:.1} s ({:.1} prefill, {:.1} decode) after {:.1} s of loading, {:.1} generated \
         tokens/s, {:.0} passes",
        plan.prefill_seconds,
        plan.decode_seconds,
        plan.load_seconds,
        tokens / seconds,
        plan.passes
    ));
    let terms = &plan.terms;
    let busy = [
        ("device", terms.device),
        ("fixed costs", terms.fixed),
        ("draft", terms.draft),
        ("host attention", terms.host),
        ("upload", terms.upload),
        ("download", terms.download),
        ("disk reads", terms.disk_read),
        ("disk writes", terms.disk_write),
    ];
    let busy = busy.iter().filter(|(_, seconds)| *seconds > 0.0);
    let busy: Vec<String> = busy.map(|(name, seconds)| format!("{name} {seconds:.1} s")).collect();
    line(format!("busy: {}; limited by {}", busy.join(", "), resource(plan.bottleneck)));
    speculation(plan).into_iter().for_each(&mut line);
    for (change, with) in &plan.what_ifs {
        let gain = 100.0 * (seconds / with - 1.0);
        line(format!("{change}: {with:.1} s ({gain:+.0} % throughput)"));
    }
    for (other, with) in &plan.runners_up {
        let weights = tiers(tier_bytes(other.weights));
        line(format!("runner-up: batch {}, weights {weights}: {with:.1} s", other.batch));
    }
    line(format!("to pin it: {}", pins(planned)));
    text
}

/// The flags that pin the plan, as far as parts in percent go; `--emit` pins it wholly.
fn pins(planned: &Planned) -> String {
    let policy = &planned.plan.policy;
    let percent = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
    let split = |split: Split| {
        let total = split.total();
        let tiers = [("gpu", split.device), ("ram", split.ram), ("disk", split.disk)];
        let parts = tiers.into_iter().filter(|&(name, _)| name != "gpu" || !planned.shares_ram);
        let parts = parts.map(|(name, bytes)| format!("{name}={:.2}%", percent(bytes, total)));
        parts.collect::<Vec<_>>().join(",")
    };
    let draft = match policy.draft {
        // The model itself drafts.
        Some(_) if planned.plan.memory.draft.total() == 0 => "",
        Some(Tier::Device) => " --draft-home gpu",
        Some(_) if !planned.shares_ram => " --draft-home ram",
        _ => "",
    };
    format!(
        "--attention {} --batch {} --micro-batch {} --prefill-chunk {} --weights {} --kv {} --speculate {}{draft}",
        attention::name(policy.host_attention),
        policy.batch,
        policy.micro_batch,
        policy.prefill_chunk,
        split(policy.weights),
        split(policy.kv),
        if policy.tree_budget > 0 { policy.tree_budget.to_string() } else { "off".to_string() }
    )
}

fn memory_table(memory: &Memory, budgets: Split, shares_ram: bool) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["bytes", "gpu", "ram", "disk"]);
    let disk_weights = Split::all(Tier::Disk, memory.weights.disk);
    let rows = [
        ("weights", memory.weights),
        ("KV cache", memory.kv),
        ("rings", memory.ring),
        ("activations", memory.activations),
        ("workspace", memory.workspace),
        ("fixed", memory.fixed),
        ("draft", memory.draft),
        ("all", memory.total() + disk_weights),
        ("budget", budgets),
    ];
    let shown = |&(name, split): &(&str, Split)| name != "draft" || split.total() > 0;
    for (name, split) in rows.into_iter().filter(shown) {
        let gpu = if shares_ram { "-".to_string() } else { size(split.device) };
        table.add_row([name.to_string(), gpu, size(split.ram), size(split.disk)]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn split_json(split: Split) -> Value {
    json!({"gpu": split.device, "ram": split.ram, "disk": split.disk})
}

fn of_budget_json(of: &OfBudget) -> Value {
    json!({"tree_budget": of.tree_budget, "seconds": of.seconds, "tokens_per_pass": of.tokens_per_pass,
           "break_even": of.break_even})
}

fn plan_json(planned: &Planned, tokens: f64) -> Value {
    let plan = &planned.plan;
    let (policy, memory, terms) = (&plan.policy, &plan.memory, &plan.terms);
    let what_ifs = plan.what_ifs.iter();
    let what_ifs: Vec<Value> =
        what_ifs.map(|(c, s)| json!({"change": c.to_string(), "seconds": s})).collect();
    let by_budget = plan.by_budget.iter();
    let by_budget: Vec<Value> = by_budget.map(of_budget_json).collect();
    let runners_up = plan.runners_up.iter();
    let runners_up: Vec<Value> = runners_up
        .map(|(p, s)| {
            json!({"batch": p.batch, "weights": split_json(p.weights), "kv": split_json(p.kv),
                   "seconds": s})
        })
        .collect();
    json!({
        "batch": policy.batch,
        "micro_batch": policy.micro_batch,
        "prefill_chunk": policy.prefill_chunk,
        "pages": policy.pages,
        "kv_format": policy.kv_format,
        "host_attention": policy.host_attention,
        "tree_budget": policy.tree_budget,
        "draft": policy.draft.map(tier),
        "weights": split_json(policy.weights),
        "kv": split_json(policy.kv),
        "ring": split_json(policy.ring),
        "memory": split_json(memory.total()),
        "budgets": split_json(planned.budgets),
        "predicted": {
            "prefill_seconds": plan.prefill_seconds,
            "decode_seconds": plan.decode_seconds,
            "total_seconds": plan.seconds(),
            "load_seconds": plan.load_seconds,
            "passes": plan.passes,
            "tokens_per_pass": plan.tokens_per_pass,
            "generated_tokens_per_second": tokens / plan.seconds(),
        },
        "busy_seconds": {
            "device": terms.device,
            "fixed": terms.fixed,
            "draft": terms.draft,
            "host": terms.host,
            "upload": terms.upload,
            "download": terms.download,
            "disk_read": terms.disk_read,
            "disk_write": terms.disk_write,
        },
        "free_rows": plan.free_rows.is_finite().then_some(plan.free_rows),
        "by_tree_budget": by_budget,
        "bottleneck": resource(plan.bottleneck),
        "what_ifs": what_ifs,
        "runners_up": runners_up,
        "pins": pins(planned),
    })
}

/// A row of a sweep: the value, and the plan or why there is none.
type Row = (u64, Result<Planned, String>, f64);

fn tabulate(
    setup: &Setup<'_>,
    profile: &HardwareProfile,
    device: &dyn Device,
    sweep: &Sweep,
    survey: &Survey,
) -> anyhow::Result<Vec<Row>> {
    let tokens = generated(survey);
    let mut rows = Vec::new();
    for &value in &sweep.values {
        let mut profile = profile.clone();
        if sweep.axis == Axis::Throttle {
            let disk = &mut profile.disk;
            disk.read_bytes_per_sec = value as f64;
            disk.write_bytes_per_sec = disk.write_bytes_per_sec.min(value as f64);
        }
        let mut question = setup.question(&profile, survey)?;
        match sweep.axis {
            Axis::GpuMem => question.amounts.gpu_mem = Amount::Bytes(value),
            Axis::Ram => question.amounts.ram = Amount::Bytes(value),
            Axis::Throttle => {}
        }
        let planned = match setup.plan(&question, device, Split::default()) {
            Ok(planned) => Ok(planned),
            Err(error) if error.downcast_ref::<CliError>().is_some() => Err(error.to_string()),
            Err(error) => return Err(error),
        };
        rows.push((value, planned, tokens));
    }
    Ok(rows)
}

fn rows_text(sweep: &Sweep, rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    let header =
        [sweep.axis.name(), "tokens/s", "seconds", "batch", "weights", "KV cache", "limited by"];
    table.set_header(header);
    for (value, planned, tokens) in rows {
        let unit = if sweep.axis == Axis::Throttle { "/s" } else { "" };
        let value = format!("{}{unit}", size(*value));
        match planned {
            Ok(planned) => {
                let (plan, policy) = (&planned.plan, &planned.plan.policy);
                table.add_row([
                    value,
                    format!("{:.1}", tokens / plan.seconds()),
                    format!("{:.1}", plan.seconds()),
                    policy.batch.to_string(),
                    tiers(tier_bytes(policy.weights)),
                    tiers(tier_bytes(policy.kv)),
                    resource(plan.bottleneck).to_string(),
                ]);
            }
            Err(why) => {
                table.add_row([
                    value,
                    "-".to_string(),
                    "-".to_string(),
                    "-".to_string(),
                    why.clone(),
                ]);
            }
        }
    }
    format!("{table}\n")
}

fn rows_json(sweep: &Sweep, rows: &[Row]) -> Value {
    let row = |(value, planned, tokens): &Row| match planned {
        Ok(planned) => {
            let mut plan = plan_json(planned, *tokens);
            plan[sweep.axis.name()] = json!(value);
            plan
        }
        Err(why) => json!({sweep.axis.name(): value, "error": why}),
    };
    rows.iter().map(row).collect()
}
