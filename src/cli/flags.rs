//! Flags that several commands have.

use super::budget::Amount;
use super::draft::Speculate;
use super::throttle::Throttles;
use super::{attention, kv, values};
use clap::builder::{FalseyValueParser, PossibleValuesParser};
use clap::{ArgAction, Args};
use forebay_planner::PinnedSplit;
use std::path::PathBuf;

/// Which model.
#[derive(Clone, Debug, Args)]
pub(super) struct ModelArgs {
    /// GGUF file or folder with one, Hugging Face folder, a name that scripts/get-model brought, or
    /// org/repo[:file-or-quantization] in the Hugging Face cache
    #[arg(short, long, env = "FOREBAY_MODEL", value_name = "MODEL")]
    pub(super) model: String,
}

/// Where and how to compute. None of these changes an answer, but for the device itself, --attention,
/// --max-model-len and --kv-format.
#[derive(Clone, Debug, Args)]
pub(super) struct EngineArgs {
    /// auto, cpu, gpu, reference (slow, for tests), part of an adapter's name, or an index of
    /// `forebay devices`
    #[arg(long, env = "FOREBAY_DEVICE", default_value = "auto", value_name = "DEVICE")]
    pub(super) device: String,
    /// Threads of the cpu device and of attention on the host, at most 256 [default: one per core]
    #[arg(long, env = "FOREBAY_THREADS", value_parser = values::threads, value_name = "N")]
    pub(super) threads: Option<usize>,
    /// What attends: the device; the host, over keys and values in RAM, while the device computes the
    /// rest; or auto, what is predicted to be faster. The host rounds otherwise in the last place, so this
    /// belongs to a job as its device does; it is ignored on the cpu device, where the host attends anyway
    /// [default: that of --plan, else device]
    #[arg(long, env = "FOREBAY_ATTENTION", value_name = "WHERE")]
    #[arg(value_parser = PossibleValuesParser::new(attention::NAMES))]
    pub(super) attention: Option<String>,
    /// Most sequences computed at once [default: planned]
    #[arg(long, env = "FOREBAY_BATCH", value_parser = values::count, value_name = "N")]
    pub(super) batch: Option<usize>,
    /// Rows of a pass that take their turn together with a layer's weights [default: planned]
    #[arg(long, env = "FOREBAY_MICRO_BATCH", value_parser = values::count, value_name = "N")]
    pub(super) micro_batch: Option<usize>,
    /// Most prompt tokens in a pass [default: planned]
    #[arg(long, env = "FOREBAY_PREFILL_CHUNK", value_parser = values::count, value_name = "TOKENS")]
    pub(super) prefill_chunk: Option<usize>,
    /// Longest sequence, prompt and output, in tokens [default: the model's own, at most 8192]
    #[arg(long, env = "FOREBAY_MAX_MODEL_LEN", value_parser = values::context, value_name = "TOKENS")]
    pub(super) max_model_len: Option<usize>,
    /// What keys and values are kept as: 16-bit floats, 8-bit keys and 4-bit values (6.75 bits), or both of
    /// 4 bits (5 bits). auto is the smallest that loses less than --kv-loss, measured once for each model
    /// and kind of device: no budget changes it, so no budget changes a token
    /// [default: that of --plan, else f16]
    #[arg(long, env = "FOREBAY_KV_FORMAT", value_name = "FORMAT")]
    #[arg(value_parser = PossibleValuesParser::new(kv::NAMES))]
    pub(super) kv_format: Option<String>,
    /// What --kv-format auto may lose: growth of the perplexity of a text against 16-bit keys and values
    #[arg(long, env = "FOREBAY_KV_LOSS", default_value = "1%", value_name = "PERCENT")]
    #[arg(value_parser = values::percent, allow_negative_numbers = true)]
    pub(super) kv_loss: f64,
    #[command(flatten)]
    pub(super) draft: DraftArgs,
}

/// Guesses that fill passes while weights stream. None of these changes an answer.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Draft trees")]
pub(super) struct DraftArgs {
    /// A smaller model with the same tokens, whose guesses the model checks by the tree, many in one
    /// pass; or self: the model's own layers that need not be brought, best with three quarters of them or
    /// more; or lookup: what followed the same tokens before, in the prompt or the answer
    #[arg(long, env = "FOREBAY_DRAFT", value_name = "MODEL")]
    pub(super) draft: Option<String>,
    /// Nodes of draft trees in a pass, over all sequences: a number, which is filled whether it pays or not;
    /// off; or auto, as many as are found to pay [a number without --draft takes lookup]
    #[arg(long, env = "FOREBAY_SPECULATE", default_value = "auto", value_name = "BUDGET")]
    pub(super) speculate: Speculate,
    /// dynamic: each tree grows where its draft is sure; static: all take the best shape for the measured
    /// acceptance of first, second, third choices; chain: one guess after the other
    #[arg(long, env = "FOREBAY_TREE_SHAPE", default_value = "dynamic", value_name = "SHAPE")]
    #[arg(value_parser = PossibleValuesParser::new(["dynamic", "static", "chain"]))]
    pub(super) tree_shape: String,
    /// Where the draft lives: in gpu memory, in ram (the processor computes it), or where it is faster
    #[arg(long, env = "FOREBAY_DRAFT_HOME", default_value = "auto", value_name = "TIER")]
    #[arg(value_parser = PossibleValuesParser::new(["auto", "gpu", "ram"]))]
    pub(super) draft_home: String,
}

/// How much of each tier may be taken, and what lives where. None of these changes an answer.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Memory and placement")]
pub(super) struct MemoryArgs {
    /// Most device memory: a size (12GiB), a part of what the driver grants (80%), or auto (that, less a
    /// tenth; where the driver does not tell, as on Metal and DX12, 4 GiB is assumed: name a size)
    #[arg(long, env = "FOREBAY_GPU_MEM", default_value = "auto", value_name = "SIZE")]
    pub(super) gpu_mem: Amount,
    /// Most RAM for this process, all it holds counted: a size, a part of all RAM, or auto (what is free,
    /// less a tenth of all, 512 MiB at least; where the system does not tell, 8 GiB is assumed)
    #[arg(long, env = "FOREBAY_RAM", default_value = "auto", value_name = "SIZE")]
    pub(super) ram: Amount,
    /// Most disk space for packed weights and cache pages: a size, a part of what is free, or auto (what
    /// is free, less a tenth)
    #[arg(long, env = "FOREBAY_DISK", default_value = "auto", value_name = "SIZE")]
    pub(super) disk: Amount,
    /// Folder for packed weights and cache pages [default: forebay's in the user's cache folder]
    #[arg(long, env = "FOREBAY_DISK_DIR", value_name = "DIR")]
    pub(super) disk_dir: Option<PathBuf>,
    /// Pin where weights live, in parts of their bytes: gpu=20%,ram=50% (the rest is planned; all
    /// three may be given)
    #[arg(long, env = "FOREBAY_WEIGHTS", value_name = "SPLIT", value_parser = values::split)]
    pub(super) weights: Option<PinnedSplit>,
    /// Pin where the KV cache lives, in parts of its layers: ram=100%
    #[arg(long, env = "FOREBAY_KV", value_name = "SPLIT", value_parser = values::split)]
    pub(super) kv: Option<PinnedSplit>,
    /// Follow a policy that `forebay plan --emit` wrote
    #[arg(long, env = "FOREBAY_PLAN", value_name = "FILE")]
    pub(super) plan: Option<PathBuf>,
    /// Rates of the machine to plan with [default: measured by `forebay calibrate`, or quickly by the run]
    #[arg(long, env = "FOREBAY_PROFILE", value_name = "FILE")]
    pub(super) profile: Option<PathBuf>,
    /// Whether reads run ahead of what needs them; false shows what that gains
    #[arg(long, env = "FOREBAY_OVERLAP", default_value = "true", value_name = "BOOL")]
    #[arg(action = ArgAction::Set)]
    pub(super) overlap: bool,
    /// Slow a tier down: disk=200MB/s, upload=1GB/s, or both with a comma
    #[arg(long, env = "FOREBAY_THROTTLE", value_name = "RATES")]
    pub(super) throttle: Option<Throttles>,
}

/// What a request gets where its line says nothing.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Defaults for lines that do not say")]
pub(super) struct SamplingArgs {
    /// Most tokens to generate [default: 16 for completions, text and {"prompt"} lines, the rest of the
    /// context for chats]
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
