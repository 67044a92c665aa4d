//! The `forebay` command: parse, run, print the chain of an error, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    match forebay::cli::main() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            if let Some(report) = forebay::cli::report(&error) {
                eprint!("{report}");
            }
            ExitCode::from(forebay::cli::exit_code(&error))
        }
    }
}
