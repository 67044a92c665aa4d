//! Messages for people, on stderr, that get along with a progress bar.

use super::args::Verbosity;
use indicatif::ProgressBar;
use std::io::{self, Write};
use std::sync::Mutex;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// The bar on the screen, if any.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Starts logging: warnings, or as much as was asked for.
pub(super) fn start(verbosity: &Verbosity) {
    let level = match (verbosity.quiet, verbosity.verbose) {
        (true, _) => "error",
        // wgpu warns that buffers in host memory are slow, which is why they hold what is only copied.
        (false, 0) => "warn,wgpu_core=error",
        (false, 1) => "warn,wgpu_core=error,forebay=info",
        (false, 2) => "warn,wgpu_core=error,forebay=debug",
        (false, _) => "info,forebay=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let colors = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && io::IsTerminal::is_terminal(&io::stderr());
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Stderr)
        .with_ansi(colors)
        .without_time()
        .with_target(false)
        // Where stderr is gone, there is no telling.
        .log_internal_errors(false);
    // A second start in one process (tests) keeps the first.
    let _ = subscriber.try_init();
}

/// Writes a line to stderr, above the progress bar.
pub(super) fn say(text: &str) {
    // Nothing to be done where stderr is gone.
    let _ = writeln!(Stderr, "{text}");
}

/// Makes messages go above `bar`, or anywhere again.
pub(super) fn set_bar(bar: Option<ProgressBar>) {
    if let Ok(mut current) = BAR.lock() {
        *current = bar;
    }
}

#[derive(Clone, Copy)]
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bar = BAR.lock().ok().and_then(|bar| bar.clone());
        match bar {
            Some(bar) => bar.suspend(|| io::stderr().write(bytes)),
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Stderr;

    fn make_writer(&'a self) -> Stderr {
        *self
    }
}
