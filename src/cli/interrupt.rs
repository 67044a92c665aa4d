//! Ctrl-C and its kin.

use super::exit::INTERRUPTED;
use std::sync::atomic::{AtomicBool, Ordering};

static STOP: AtomicBool = AtomicBool::new(false);

/// Takes over SIGINT, SIGTERM and SIGHUP. The first sets the returned flag, which asks a job to finish
/// what is in flight; the second ends the process at once.
pub(super) fn watch() -> &'static AtomicBool {
    watch_saying(
        "forebay: interrupted; finishing what is in flight. Again to stop at once; the same \
         command resumes.",
    )
}

/// As [`watch`], for work that answers the first signal in another way, which `message` tells.
pub(super) fn watch_saying(message: &'static str) -> &'static AtomicBool {
    let handler = ctrlc::set_handler(move || {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED.into());
        }
        super::log::say(message);
    });
    if let Err(error) = handler {
        tracing::warn!("signals end this run at once: {error}");
    }
    &STOP
}
