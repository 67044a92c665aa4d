//! Ctrl-C and its kin.

use super::exit::INTERRUPTED;
use std::sync::atomic::{AtomicBool, Ordering};

static STOP: AtomicBool = AtomicBool::new(false);

/// Takes over SIGINT, SIGTERM and SIGHUP, but those that this process was started to ignore: by `nohup`, or
/// by a script that has it run in the background.
/// The first sets the returned flag and says `message`; the second ends the process at once.
pub(super) fn watch(message: &'static str) -> &'static AtomicBool {
    let ignored = Ignored::find();
    let handler = ctrlc::set_handler(move || {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED.into());
        }
        super::log::say(message);
    });
    if let Err(error) = handler {
        tracing::warn!("signals end this run at once: {error}");
    }
    ignored.ignore_again();
    &STOP
}

/// Signals that whoever started this process had it ignore.
struct Ignored(Vec<i32>);

#[cfg(unix)]
impl Ignored {
    fn find() -> Ignored {
        let is_ignored = |&signal: &i32| {
            let mut action = std::mem::MaybeUninit::<libc::sigaction>::uninit();
            // SAFETY: it only asks, and writes the whole of `action` where it returns 0.
            unsafe {
                libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0
                    && action.assume_init().sa_sigaction == libc::SIG_IGN
            }
        };
        Ignored(
            [libc::SIGHUP, libc::SIGINT, libc::SIGTERM].into_iter().filter(is_ignored).collect(),
        )
    }

    fn ignore_again(&self) {
        for &signal in &self.0 {
            // SAFETY: ignoring a signal runs no code.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
    }
}

#[cfg(not(unix))]
impl Ignored {
    fn find() -> Ignored {
        Ignored(Vec::new())
    }

    fn ignore_again(&self) {
        debug_assert!(self.0.is_empty());
    }
}
