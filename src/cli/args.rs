//! The arguments as they are written. What they amount to is in `values`.

use super::bench_rows::Format;
use super::flags::{EngineArgs, MemoryArgs, ModelArgs, SamplingArgs};
use super::series::Series;
use super::sweep::Sweep;
use super::values;
use crate::job::InputFormat;
use crate::kernel::KvFormat;
use crate::synth::Quant;
use clap::builder::{FalseyValueParser, PossibleValuesParser};
use clap::{ArgAction, Args, Parser, Subcommand};
use std::path::PathBuf;

/// Runs language models over files of prompts, at the highest throughput one machine can give.
#[derive(Debug, Parser)]
#[command(name = "forebay", version, propagate_version = true)]
#[command(after_help = "Exit codes: 0 done, 1 other error, 2 wrong usage, 3 done with failed \
    requests, 4 does not fit, 5 device, 6 output belongs to another job, 130 interrupted (a run \
    from file to file is resumed by the same command, without --overwrite).\n\n\
    Every option can also be given as an environment variable: --max-tokens is \
    FOREBAY_MAX_TOKENS.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(super) command: Command,
    #[command(flatten)]
    pub(super) verbosity: Verbosity,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Answer every line of a file of prompts; run again to resume
    Run(Box<RunArgs>),
    /// Show where everything would live, how long a job would take, and why
    Plan(Box<PlanArgs>),
    /// Measure how fast jobs of some lengths are, as llama-bench and llama-batched-bench do
    Bench(Box<BenchArgs>),
    /// Measure this machine for the planner
    Calibrate(CalibrateArgs),
    /// List the devices that --device can name
    Devices(DevicesArgs),
    /// Show what a model's files say: shape, tensors, metadata
    Inspect(InspectArgs),
    /// Measure how well a model does
    #[command(subcommand)]
    Eval(EvalCommand),
    /// Write a model with pseudo-random weights in the shape of a known one, to try its size and speed
    Synth(SynthArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Print the manual page
    Man,
}

#[derive(Debug, Subcommand)]
pub(super) enum EvalCommand {
    /// Perplexity of a text, by llama.cpp's convention
    Perplexity(PerplexityArgs),
}

#[derive(Clone, Debug, Args)]
pub(super) struct Verbosity {
    /// Say only errors
    #[arg(short, long, global = true, env = "FOREBAY_QUIET", value_parser = FalseyValueParser::new())]
    #[arg(action = ArgAction::SetTrue)]
    pub(super) quiet: bool,
    /// Say more; twice, even more [RUST_LOG overrides it]
    #[arg(short, long, global = true, env = "FOREBAY_VERBOSE", action = ArgAction::Count)]
    pub(super) verbose: u8,
}

#[derive(Clone, Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) model: ModelArgs,
    /// File of prompts: OpenAI Batch lines, {"prompt"} or {"messages"} lines, or text; - is stdin (a job
    /// that reads it, or a pipe, can't be resumed)
    #[arg(short, long, alias = "input-file", env = "FOREBAY_INPUT", value_name = "FILE")]
    pub(super) input: String,
    /// File of results, in OpenAI's Batch form, in the order they finish; - is stdout (a job that
    /// writes to it, or to a pipe, can't be resumed)
    #[arg(short, long, alias = "output-file", env = "FOREBAY_OUTPUT", value_name = "FILE")]
    pub(super) output: String,
    /// How to read lines; auto goes by the file's extension, else by its first line
    #[arg(long, env = "FOREBAY_INPUT_FORMAT", default_value = "auto", value_name = "FORMAT")]
    #[arg(value_parser = InputFormat::NAMES)]
    pub(super) input_format: String,
    /// Start again, whatever the output holds; leave it out to resume
    #[arg(long, env = "FOREBAY_OVERWRITE", value_parser = FalseyValueParser::new())]
    #[arg(action = ArgAction::SetTrue)]
    pub(super) overwrite: bool,
    /// On resume, run failed lines again
    #[arg(long, env = "FOREBAY_RETRY_ERRORS", value_parser = FalseyValueParser::new())]
    #[arg(action = ArgAction::SetTrue)]
    pub(super) retry_errors: bool,
    /// At the end, put results in the order of the input
    #[arg(long, env = "FOREBAY_ORDERED", value_parser = FalseyValueParser::new())]
    #[arg(action = ArgAction::SetTrue)]
    pub(super) ordered: bool,
    /// Write the figures of the run to FILE, as JSON
    #[arg(long, env = "FOREBAY_SUMMARY", value_name = "FILE")]
    pub(super) summary: Option<PathBuf>,
    /// Write when each step ran to FILE, as a Chrome trace
    #[arg(long, env = "FOREBAY_TRACE", value_name = "FILE")]
    pub(super) trace: Option<PathBuf>,
    #[command(flatten)]
    pub(super) engine: EngineArgs,
    #[command(flatten)]
    pub(super) memory: MemoryArgs,
    #[command(flatten)]
    pub(super) sampling: SamplingArgs,
}

#[derive(Clone, Debug, Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    pub(super) model: ModelArgs,
    /// File of prompts to plan for [default: 1024 requests of --prompt-len and --gen-len]
    #[arg(short, long, alias = "input-file", env = "FOREBAY_INPUT", value_name = "FILE")]
    pub(super) input: Option<String>,
    /// Prompt tokens of each request, without an input [default: 512, or what fits]
    #[arg(long, env = "FOREBAY_PROMPT_LEN", value_parser = values::count, value_name = "TOKENS")]
    #[arg(conflicts_with = "input")]
    pub(super) prompt_len: Option<usize>,
    /// Generated tokens of each request, without an input [default: 128, or what fits]
    #[arg(long, env = "FOREBAY_GEN_LEN", value_parser = values::count, value_name = "TOKENS")]
    #[arg(conflicts_with = "input")]
    pub(super) gen_len: Option<usize>,
    /// Requests, without an input
    #[arg(long, env = "FOREBAY_REQUESTS", value_parser = values::count, value_name = "N")]
    #[arg(default_value = "1024", conflicts_with = "input")]
    pub(super) requests: usize,
    /// Tabulate against a budget or a rate: gpu-mem=4GiB..24GiB, ram=8GiB..64GiB, or
    /// throttle=100MB/s..3GB/s; the number of rows may follow, as in ram=1GiB..4GiB/7
    #[arg(long, env = "FOREBAY_SWEEP", value_name = "RANGE")]
    pub(super) sweep: Option<Sweep>,
    /// Write the policy to FILE, for `run --plan`
    #[arg(long, env = "FOREBAY_EMIT", value_name = "FILE")]
    pub(super) emit: Option<PathBuf>,
    /// Print JSON
    #[arg(long, env = "FOREBAY_JSON", value_parser = FalseyValueParser::new())]
    #[arg(action = ArgAction::SetTrue)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) engine: EngineArgs,
    #[command(flatten)]
    pub(super) memory: MemoryArgs,
    #[command(flatten)]
    pub(super) sampling: SamplingArgs,
}

#[derive(Clone, Debug, Args)]
pub(super) struct BenchArgs {
    #[command(flatten)]
    pub(super) model: ModelArgs,
    /// Prompt tokens of each request: a number, a list such as 128,512, or a range such as 64-512*2; 0
    /// measures output alone
    #[arg(short, long = "prompt-len", env = "FOREBAY_PROMPT_LEN", value_name = "TOKENS")]
    #[arg(default_value = "512")]
    pub(super) prompt: Series,
    /// Generated tokens of each request; 0 measures prompts alone
    #[arg(short = 'n', long = "gen-len", env = "FOREBAY_GEN_LEN", value_name = "TOKENS")]
    #[arg(default_value = "128")]
    pub(super) gen_tokens: Series,
    /// Requests of a job; how many are computed at once is planned, unless --batch says
    #[arg(short = 'b', long, env = "FOREBAY_REQUESTS", default_value = "1", value_name = "N")]
    pub(super) requests: Series,
    /// Times that each job is measured
    #[arg(short, long, env = "FOREBAY_REPETITIONS", default_value = "5", value_name = "N")]
    #[arg(value_parser = values::count)]
    pub(super) repetitions: usize,
    /// Measure the first job of each combination, too, which finds caches cold (no warm-up)
    #[arg(long, env = "FOREBAY_NO_WARMUP", value_parser = FalseyValueParser::new())]
    #[arg(action = ArgAction::SetTrue)]
    pub(super) no_warmup: bool,
    /// How results are printed
    #[arg(short = 'o', long, env = "FOREBAY_FORMAT", default_value = "md", value_name = "FORMAT")]
    #[arg(value_parser = PossibleValuesParser::new(Format::NAMES))]
    pub(super) format: String,
    #[command(flatten)]
    pub(super) engine: EngineArgs,
    #[command(flatten)]
    pub(super) memory: MemoryArgs,
}

#[derive(Clone, Debug, Args)]
pub(super) struct CalibrateArgs {
    /// Read this model's file instead of a scratch file, if it is on the disk that weights are streamed from
    #[arg(short, long, env = "FOREBAY_MODEL", value_name = "MODEL")]
    pub(super) model: Option<String>,
    /// auto, cpu, gpu, reference, part of an adapter's name, or an index of `forebay devices`
    #[arg(long, env = "FOREBAY_DEVICE", default_value = "auto", value_name = "DEVICE")]
    pub(super) device: String,
    /// Threads of the cpu device, at most 256 [default: one per core]
    #[arg(long, env = "FOREBAY_THREADS", value_parser = values::threads, value_name = "N")]
    pub(super) threads: Option<usize>,
    /// Folder on the disk that will be streamed from, for a scratch file [default: the user's cache]
    #[arg(long, env = "FOREBAY_DISK_DIR", value_name = "DIR")]
    pub(super) disk_dir: Option<PathBuf>,
    /// Take ten seconds instead of a minute
    #[arg(long, env = "FOREBAY_QUICK", value_parser = FalseyValueParser::new())]
    #[arg(action = ArgAction::SetTrue)]
    pub(super) quick: bool,
    /// Also write the profile to FILE, as JSON
    #[arg(
        short = 'o',
        long = "profile-output",
        env = "FOREBAY_PROFILE_OUTPUT",
        value_name = "FILE"
    )]
    pub(super) output: Option<PathBuf>,
    /// Print JSON
    #[arg(long, env = "FOREBAY_JSON", value_parser = FalseyValueParser::new())]
    #[arg(action = ArgAction::SetTrue)]
    pub(super) json: bool,
}

#[derive(Clone, Debug, Args)]
pub(super) struct DevicesArgs {
    /// Print JSON
    #[arg(long, env = "FOREBAY_JSON", value_parser = FalseyValueParser::new())]
    #[arg(action = ArgAction::SetTrue)]
    pub(super) json: bool,
}

#[derive(Clone, Debug, Args)]
pub(super) struct InspectArgs {
    /// GGUF file or folder with one, Hugging Face folder, a name that scripts/get-model brought, or
    /// org/repo[:file-or-quantization] in the Hugging Face cache
    #[arg(env = "FOREBAY_MODEL", value_name = "MODEL")]
    pub(super) model: String,
    /// Print JSON
    #[arg(long, env = "FOREBAY_JSON", value_parser = FalseyValueParser::new())]
    #[arg(action = ArgAction::SetTrue)]
    pub(super) json: bool,
}

#[derive(Clone, Debug, Args)]
pub(super) struct PerplexityArgs {
    #[command(flatten)]
    pub(super) model: ModelArgs,
    /// The text
    #[arg(short, long, env = "FOREBAY_FILE", value_name = "FILE")]
    pub(super) file: PathBuf,
    /// Tokens of a chunk; the second half of each is scored
    #[arg(short, long, env = "FOREBAY_CTX", default_value = "512", value_name = "TOKENS")]
    #[arg(value_parser = values::chunk)]
    pub(super) ctx: usize,
    /// Stop after this many chunks [default: all]
    #[arg(long, env = "FOREBAY_CHUNKS", value_parser = values::count, value_name = "N")]
    pub(super) chunks: Option<usize>,
    /// What keys and values are kept as, as in `forebay run`
    #[arg(long, env = "FOREBAY_KV_FORMAT", default_value = "f16", value_name = "FORMAT")]
    #[arg(value_parser = PossibleValuesParser::new(KvFormat::ALL.map(KvFormat::name)))]
    pub(super) kv_format: String,
    /// auto, cpu, gpu, reference, part of an adapter's name, or an index of `forebay devices`
    #[arg(long, env = "FOREBAY_DEVICE", default_value = "auto", value_name = "DEVICE")]
    pub(super) device: String,
    /// Threads of the cpu device, at most 256 [default: one per core]
    #[arg(long, env = "FOREBAY_THREADS", value_parser = values::threads, value_name = "N")]
    pub(super) threads: Option<usize>,
    /// Print JSON
    #[arg(long, env = "FOREBAY_JSON", value_parser = FalseyValueParser::new())]
    #[arg(action = ArgAction::SetTrue)]
    pub(super) json: bool,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = SYNTH_HELP)]
pub(super) struct SynthArgs {
    /// A shape listed below, or a file that describes one
    #[arg(long, env = "FOREBAY_SHAPE", value_name = "NAME|FILE")]
    pub(super) shape: String,
    /// Type of every matrix; q4_k_m and q5_k_m mix types as llama.cpp does
    #[arg(long, env = "FOREBAY_QUANT", default_value = "q4_k", value_name = "QUANT")]
    #[arg(value_parser = PossibleValuesParser::new(Quant::ALL.map(|(name, _)| name)))]
    pub(super) quant: String,
    /// The GGUF file to write
    #[arg(short, long, env = "FOREBAY_OUTPUT", value_name = "FILE")]
    pub(super) output: PathBuf,
    /// Which weights; equal seeds give equal files
    #[arg(long, env = "FOREBAY_SEED", default_value = "0", value_name = "N")]
    pub(super) seed: u64,
    /// Write the header alone, data as a hole: for inspecting and planning at any size, at once
    #[arg(long, env = "FOREBAY_HEADER_ONLY", value_parser = FalseyValueParser::new())]
    #[arg(action = ArgAction::SetTrue)]
    pub(super) header_only: bool,
    /// Replace FILE if it is there
    #[arg(long, env = "FOREBAY_OVERWRITE", value_parser = FalseyValueParser::new())]
    #[arg(action = ArgAction::SetTrue)]
    pub(super) overwrite: bool,
}

const SYNTH_HELP: &str = "\
Shapes: llama-3-8b llama-3-70b llama-3.2-1b llama-3.2-3b qwen2.5-0.5b qwen2.5-1.5b qwen2.5-7b \
qwen2.5-14b qwen2.5-32b qwen2.5-72b qwen3-8b qwen3-14b qwen3-32b gemma-3-1b gemma-3-4b gemma-3-12b \
gemma-3-27b opt-30b-like opt-175b-like (OPT's sizes as llama's architecture)

A shape file is a config.json of transformers (or the folder with it), or a JSON object with these fields:
  architecture   llama, qwen2, qwen3 or gemma3
  layers, hidden, heads, feed_forward, vocab
  kv_heads       heads for keys and values [default: as many as heads]
  head_dim       elements of a head [default: hidden / heads]
  context        longest sequence, tokens [default: 8192]
  norm_eps       epsilon of the norms [default: 1e-5]
  rope_base      base of the rotary frequencies [default: 10000]
  rope_scaling   {\"linear\": FACTOR} or {\"llama3\": FACTOR} [default: none]
  window         sliding window, tokens; gemma3 leaves every sixth layer without [default: none]
  tied_head      whether the output head is the embedding [default: false]";

#[derive(Clone, Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub(super) shell: clap_complete::Shell,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn check_environment(command: &clap::Command) {
        for arg in command.get_arguments() {
            let Some(long) = arg.get_long() else { continue };
            if ["help", "version"].contains(&long) {
                continue;
            }
            let want = format!("FOREBAY_{}", long.to_uppercase().replace('-', "_"));
            let found = arg.get_env().and_then(|env| env.to_str());
            assert_eq!(found, Some(want.as_str()), "--{long} of {}", command.get_name());
            assert!(arg.get_help().is_some(), "--{long} has no help");
        }
        command.get_subcommands().for_each(check_environment);
    }

    #[test]
    fn every_flag_has_an_environment_twin_and_help() {
        Cli::command().debug_assert();
        check_environment(&Cli::command());
    }

    #[test]
    fn the_help_of_synth_names_every_shape() {
        let names: Vec<&str> = SYNTH_HELP.lines().next().unwrap().split_whitespace().collect();
        assert!(crate::synth::shape_names().iter().all(|name| names.contains(&name.as_str())));
    }

    #[test]
    fn sampling_flags_are_held_to_the_ranges_of_lines() {
        let parse = |flag: &str, value: &str| {
            let base = ["forebay", "run", "-m", "m", "-i", "i", "-o", "o", flag, value];
            Cli::try_parse_from(base).map_err(|error| error.to_string())
        };
        assert!(parse("--temperature", "0").is_ok());
        assert!(parse("--frequency-penalty", "-1.5").is_ok());
        let error = parse("--temperature", "-1").unwrap_err();
        assert!(error.contains("expected a number from 0 to 2"), "{error}");
        for (flag, value) in [
            ("--top-p", "1.1"),
            ("--repetition-penalty", "0"),
            ("--batch", "0"),
            ("--threads", "x"),
            ("--max-model-len", "1"),
            ("--stop", ""),
            ("--input-format", "csv"),
        ] {
            assert!(parse(flag, value).is_err(), "{flag} {value}");
        }
    }
}
