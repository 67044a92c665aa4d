//! The command line.
//! In: arguments and the environment. Out: data on stdout, everything else on stderr, an exit code.
//! Must never know: how anything below it works.

mod args;
mod attention;
mod bench;
mod bench_rows;
mod budget;
mod cache;
mod calibrate;
mod device;
mod devices;
mod draft;
mod draft_place;
mod draft_said;
mod engine;
mod eval;
mod exit;
mod explain;
mod flags;
mod inspect;
mod interrupt;
mod kernel_files;
mod kv;
mod kv_loss;
mod log;
mod memory;
mod outputs;
mod plan;
mod planning;
mod policy;
mod prepare;
mod profiles;
mod progress;
mod replan;
mod run;
mod series;
mod shell;
mod sweep;
mod synth;
mod throttle;
mod values;

pub use args::Cli;
pub use exit::{exit_code, report};
pub use throttle::Throttles;

use args::{Command, EvalCommand};
use clap::Parser;

/// Parses the command line and does what it says; returns the exit code of what ended well.
pub fn main() -> anyhow::Result<u8> {
    let cli = Cli::parse();
    log::start(&cli.verbosity);
    let quiet = cli.verbosity.quiet;
    match cli.command {
        Command::Run(args) => run::run(&args, quiet),
        Command::Plan(args) => plan::plan(&args, quiet),
        Command::Bench(args) => bench::bench(&args, quiet),
        Command::Calibrate(args) => calibrate::calibrate(&args, quiet),
        Command::Devices(args) => devices::devices(&args),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Eval(EvalCommand::Perplexity(args)) => eval::eval(&args, quiet),
        Command::Synth(args) => synth::synth(&args, quiet),
        Command::Completions(args) => shell::completions(args.shell),
        Command::Man => shell::man(),
    }
}
