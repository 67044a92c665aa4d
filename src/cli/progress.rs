//! Progress of a job on stderr: a bar on a terminal, a line now and then elsewhere.

use super::log;
use crate::job::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Shows how a job comes along.
pub(super) struct Display {
    bar: Option<ProgressBar>,
    quiet: bool,
    said_at: Instant,
}

impl Display {
    /// A display; `quiet` shows nothing.
    pub(super) fn new(quiet: bool) -> Display {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(4));
            let style = ProgressStyle::with_template("{msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            log::set_bar(Some(bar.clone()));
            bar
        });
        Display { bar, quiet, said_at: Instant::now() }
    }

    /// Says what is being waited for before there are figures.
    pub(super) fn note(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_string());
            bar.tick();
        }
    }

    /// Shows where the job stands.
    pub(super) fn update(&mut self, progress: &Progress) {
        self.show(|| line(progress));
    }

    /// Shows a line where it is time for one.
    pub(super) fn show(&mut self, line: impl FnOnce() -> String) {
        if let Some(bar) = &self.bar {
            bar.set_message(line());
            bar.tick();
        } else if !self.quiet && self.said_at.elapsed() >= LINE_INTERVAL {
            self.said_at = Instant::now();
            log::say(&line());
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            log::set_bar(None);
            bar.finish_and_clear();
        }
    }
}

/// `412/5,000 req · pp 1,240 tok/s · tg 38.1 tok/s · elapsed 12:04 · ETA 2:13:40`.
fn line(progress: &Progress) -> String {
    let total = progress.total.map_or(String::new(), |total| format!("/{}", thousands(total)));
    let mut text = format!("{}{total} req", thousands(progress.done));
    if progress.failed > 0 {
        text += &format!(" ({} failed)", thousands(progress.failed));
    }
    let counters = &progress.counters;
    for (name, tokens, time) in [
        ("pp", counters.prompt_tokens, counters.prefill),
        ("tg", counters.generated_tokens, counters.decode),
    ] {
        if tokens > 0 && !time.is_zero() {
            text += &format!(" · {name} {} tok/s", rate(tokens as f64 / time.as_secs_f64()));
        }
    }
    text += &format!(" · elapsed {}", clock(progress.elapsed));
    if let Some(remaining) = remaining(progress) {
        text += &format!(" · ETA {}", clock(remaining));
    }
    text
}

/// Time to the end at the pace so far.
fn remaining(progress: &Progress) -> Option<Duration> {
    let now = progress.done.checked_sub(progress.resumed).filter(|&done| done > 0)?;
    let left = progress.total?.saturating_sub(progress.done);
    Some(progress.elapsed.mul_f64(left as f64 / now as f64))
}

fn rate(rate: f64) -> String {
    if rate >= 100.0 { thousands(rate.round() as u64) } else { format!("{rate:.1}") }
}

/// `1,234,567`.
fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `4:05`, `2:13:40`.
pub(super) fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Counters;

    #[test]
    fn the_line_says_how_far_and_how_fast() {
        let counters = Counters {
            prompt_tokens: 124_000,
            generated_tokens: 381,
            prefill: Duration::from_secs(100),
            decode: Duration::from_secs(10),
            ..Counters::default()
        };
        let progress = Progress {
            total: Some(5000),
            done: 412,
            failed: 2,
            resumed: 12,
            counters,
            elapsed: Duration::from_secs(724),
        };
        let want = "412/5,000 req (2 failed) · pp 1,240 tok/s · tg 38.1 tok/s · elapsed 12:04 · \
                    ETA 2:18:24";
        assert_eq!(line(&progress), want);
        assert_eq!(line(&Progress::default()), "0 req · elapsed 0:00");
        assert_eq!(thousands(1_234_567), "1,234,567");
    }
}
