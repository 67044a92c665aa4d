//! The `forebay` command: parse, run, print the chain of an error, exit code.

use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // Vulkan drivers that look for a display complain on stderr where this is not set.
        // SAFETY: this is the first statement of the only thread.
        unsafe { std::env::set_var("XDG_RUNTIME_DIR", std::env::temp_dir()) };
    }
    match forebay::cli::main() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            if let Some(report) = forebay::cli::report(&error) {
                // Where stderr is gone, the exit code still tells.
                let _ = write!(std::io::stderr(), "{report}");
            }
            ExitCode::from(forebay::cli::exit_code(&error))
        }
    }
}
