//! Completion scripts and the manual page, both made from the arguments.

use super::args::Cli;
use super::exit::DONE;
use clap::CommandFactory;
use clap_complete::Shell;
use std::io::{self, Write};

/// Prints a completion script.
pub(super) fn completions(shell: Shell) -> anyhow::Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "forebay", &mut script);
    print(&script)?;
    Ok(DONE)
}

/// Prints the manual: the page of the program and one for each subcommand.
pub(super) fn man() -> anyhow::Result<u8> {
    let mut pages = Vec::new();
    let mut command = Cli::command();
    command.build();
    render(&command, &mut pages)?;
    print(&pages)?;
    Ok(DONE)
}

fn render(command: &clap::Command, pages: &mut Vec<u8>) -> io::Result<()> {
    clap_mangen::Man::new(command.clone()).render(pages)?;
    command
        .get_subcommands()
        .filter(|sub| sub.get_name() != "help")
        .try_for_each(|sub| render(sub, pages))
}

/// Writes data to stdout, whole.
pub(super) fn print(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}
