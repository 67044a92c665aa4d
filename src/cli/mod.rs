//! The command line.
//! In: arguments and the environment. Out: data on stdout, everything else on stderr, an exit code.
//! Must never know: how anything below it works.

mod args;
mod exit;
mod interrupt;
mod log;
mod memory;
mod progress;
mod shell;
mod values;

pub use args::Cli;
pub use exit::{exit_code, report};

use args::Command;
use clap::Parser;

/// Parses the command line and does what it says; returns the exit code of what ended well.
pub fn main() -> anyhow::Result<u8> {
    let cli = Cli::parse();
    log::start(&cli.verbosity);
    match cli.command {
        Command::Completions(args) => shell::completions(args.shell),
        Command::Man => shell::man(),
    }
}
