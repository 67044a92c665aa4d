//! The arguments as they are written. What they amount to is in `values`.

use super::values;
use crate::job::InputFormat;
use clap::builder::FalseyValueParser;
use clap::{ArgAction, Args, Parser, Subcommand};
use std::path::PathBuf;

/// Runs language models over files of prompts, at the highest throughput one machine can give.
#[derive(Debug, Parser)]
#[command(name = "forebay", version, propagate_version = true)]
#[command(after_help = "Exit codes: 0 done, 1 other error, 2 wrong usage, 3 done with failed \
    requests, 4 does not fit, 5 device, 6 output belongs to another job, 130 interrupted \
    (the same command resumes).\n\nEvery option can also be given as an environment variable: \
    --max-tokens is FOREBAY_MAX_TOKENS.")]
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
    /// Measure this machine for the planner
    Calibrate(CalibrateArgs),
    /// List the devices that --device can name
    Devices(DevicesArgs),
    /// Show what a model's files say: shape, tensors, metadata
    Inspect(InspectArgs),
    /// Measure how well a model does
    #[command(subcommand)]
    Eval(EvalCommand),
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

/// Which model.
#[derive(Clone, Debug, Args)]
pub(super) struct ModelArgs {
    /// GGUF file, Hugging Face folder, or org/repo[:file-or-quantization] in the Hugging Face cache
    #[arg(short, long, env = "FOREBAY_MODEL", value_name = "MODEL")]
    pub(super) model: String,
}

/// Where and how to compute. None of these changes an answer, but for the device itself and
/// --max-model-len.
#[derive(Clone, Debug, Args)]
pub(super) struct EngineArgs {
    /// auto, cpu, gpu, reference (slow, for tests), part of an adapter's name, or an index of
    /// `forebay devices`
    #[arg(long, env = "FOREBAY_DEVICE", default_value = "auto", value_name = "DEVICE")]
    pub(super) device: String,
    /// Threads of the cpu device, at most 256 [default: one per core]
    #[arg(long, env = "FOREBAY_THREADS", value_parser = values::threads, value_name = "N")]
    pub(super) threads: Option<usize>,
    /// Most sequences computed at once [default: auto, by memory]
    #[arg(long, env = "FOREBAY_BATCH", value_parser = values::count, value_name = "N")]
    pub(super) batch: Option<usize>,
    /// Most prompt tokens in a pass
    #[arg(long, env = "FOREBAY_PREFILL_CHUNK", value_parser = values::count, value_name = "TOKENS")]
    #[arg(default_value = "512")]
    pub(super) prefill_chunk: usize,
    /// Longest sequence, prompt and output, in tokens [default: the model's own, at most 8192]
    #[arg(long, env = "FOREBAY_MAX_MODEL_LEN", value_parser = values::context, value_name = "TOKENS")]
    pub(super) max_model_len: Option<usize>,
}

/// What a request gets where its line says nothing.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Defaults for lines that do not say")]
pub(super) struct SamplingArgs {
    /// Most tokens to generate [default: 16 for completions, the rest of the context for chats]
    #[arg(long, env = "FOREBAY_MAX_TOKENS", value_parser = values::count, value_name = "TOKENS")]
    pub(super) max_tokens: Option<usize>,
    /// 0 (greedy) to 2
    #[arg(long, env = "FOREBAY_TEMPERATURE", default_value = "1", value_name = "T")]
    #[arg(value_parser = values::temperature, allow_negative_numbers = true)]
    pub(super) temperature: f32,
    /// Keep the most likely tokens that together reach this probability, 0 to 1; 1 keeps all
    #[arg(long, env = "FOREBAY_TOP_P", default_value = "1", value_name = "P")]
    #[arg(value_parser = values::top_p, allow_negative_numbers = true)]
    pub(super) top_p: f32,
    /// Keep this many most likely tokens; 0 keeps all
    #[arg(long, env = "FOREBAY_TOP_K", default_value = "0", value_name = "K")]
    pub(super) top_k: u32,
    /// Drop tokens less likely than this part of the most likely one, 0 to 1
    #[arg(long, env = "FOREBAY_MIN_P", default_value = "0", value_name = "P")]
    #[arg(value_parser = values::min_p, allow_negative_numbers = true)]
    pub(super) min_p: f32,
    /// Penalty on tokens of prompt and output, above 0 to 100; 1 is none
    #[arg(long, env = "FOREBAY_REPETITION_PENALTY", default_value = "1", value_name = "X")]
    #[arg(value_parser = values::repetition_penalty, allow_negative_numbers = true)]
    pub(super) repetition_penalty: f32,
    /// Penalty per occurrence in the output, -2 to 2
    #[arg(long, env = "FOREBAY_FREQUENCY_PENALTY", default_value = "0", value_name = "X")]
    #[arg(value_parser = values::frequency_penalty, allow_negative_numbers = true)]
    pub(super) frequency_penalty: f32,
    /// Penalty on tokens that occur in the output, -2 to 2
    #[arg(long, env = "FOREBAY_PRESENCE_PENALTY", default_value = "0", value_name = "X")]
    #[arg(value_parser = values::presence_penalty, allow_negative_numbers = true)]
    pub(super) presence_penalty: f32,
    /// End before this text; repeat for several
    #[arg(long, env = "FOREBAY_STOP", value_parser = values::stop, value_name = "TEXT")]
    pub(super) stop: Vec<String>,
    /// Go on past end-of-sequence tokens
    #[arg(long, env = "FOREBAY_IGNORE_EOS", value_parser = FalseyValueParser::new())]
    #[arg(action = ArgAction::SetTrue)]
    pub(super) ignore_eos: bool,
    /// Each request without a seed gets one made of this and its custom_id
    #[arg(long, env = "FOREBAY_SEED", default_value = "0", value_name = "N")]
    pub(super) seed: u64,
}

#[derive(Clone, Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) model: ModelArgs,
    /// File of prompts: OpenAI Batch lines, {"prompt"} or {"messages"} lines, or text; - is stdin
    #[arg(short, long, alias = "input-file", env = "FOREBAY_INPUT", value_name = "FILE")]
    pub(super) input: String,
    /// File of results, in OpenAI's Batch form, in the order they finish; - is stdout
    #[arg(short, long, alias = "output-file", env = "FOREBAY_OUTPUT", value_name = "FILE")]
    pub(super) output: String,
    /// How to read lines; auto goes by the file's extension, else by its first line
    #[arg(long, env = "FOREBAY_INPUT_FORMAT", default_value = "auto", value_name = "FORMAT")]
    #[arg(value_parser = InputFormat::NAMES)]
    pub(super) input_format: String,
    /// Start again, whatever the output holds
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
    #[command(flatten)]
    pub(super) engine: EngineArgs,
    #[command(flatten)]
    pub(super) sampling: SamplingArgs,
}

#[derive(Clone, Debug, Args)]
pub(super) struct CalibrateArgs {
    /// Read this model's file instead of a scratch file
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
    #[arg(short, value_name = "FILE")]
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
    /// GGUF file, Hugging Face folder, or org/repo[:file-or-quantization] in the Hugging Face cache
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
