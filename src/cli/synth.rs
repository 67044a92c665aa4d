//! `forebay synth`.

use super::args::SynthArgs;
use super::exit::{CliError, DONE, INTERRUPTED};
use super::progress::{Display, clock};
use super::{interrupt, log};
use crate::synth::{Quant, SynthError, Synthetic, WriteOptions, shape};
use bytesize::ByteSize;
use std::time::{Duration, Instant};

/// Writes a model with pseudo-random weights.
pub(super) fn synth(args: &SynthArgs, quiet: bool) -> anyhow::Result<u8> {
    if args.output.as_os_str() == "-" {
        let message = "--output -: a model is not written to standard output; name a file";
        return Err(CliError::Usage(message.to_string()).into());
    }
    let stop = interrupt::watch(
        "forebay: interrupted; removing what was written. Again to stop at once and leave it.",
    );
    let quant = Quant::from_name(&args.quant)
        .ok_or_else(|| CliError::Usage(format!("--quant {}: not known", args.quant)))?;
    let model = Synthetic::new(shape(&args.shape)?, quant, args.seed)?;
    let options = WriteOptions { overwrite: args.overwrite, header_only: args.header_only };
    let started = Instant::now();
    let mut display = Display::new(quiet);
    let mut progress = |written, total| display.show(|| line(written, total, started.elapsed()));
    let bytes = match model.write(&args.output, options, stop, &mut progress) {
        Ok(bytes) => bytes,
        Err(SynthError::Interrupted) => return Ok(INTERRUPTED),
        Err(error) => return Err(error.into()),
    };
    drop(display);
    if !quiet {
        let name = args.output.display();
        let text = match args.header_only {
            true => format!("header of {name}, a model of {}, without data", iec(bytes)),
            false => format!("{name}: {}", done(bytes, started.elapsed())),
        };
        log::say(&format!("forebay: wrote {text}"));
    }
    Ok(DONE)
}

fn iec(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

fn rate(bytes: u64, time: Duration) -> u64 {
    (bytes as f64 / time.as_secs_f64().max(1e-3)) as u64
}

/// `4.3 GiB in 0:05 (850.1 MiB/s)`.
fn done(bytes: u64, time: Duration) -> String {
    format!("{} in {} ({}/s)", iec(bytes), clock(time), iec(rate(bytes, time)))
}

/// `1.2 GiB of 4.3 GiB · 830.0 MiB/s · elapsed 0:01 · ETA 0:03`.
fn line(written: u64, total: u64, time: Duration) -> String {
    let left = time.mul_f64(total.saturating_sub(written) as f64 / written.max(1) as f64);
    format!(
        "{} of {} · {}/s · elapsed {} · ETA {}",
        iec(written),
        iec(total),
        iec(rate(written, time)),
        clock(time),
        clock(left)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_far_and_how_fast() {
        let text = line(1 << 30, 4 << 30, Duration::from_secs(2));
        assert_eq!(text, "1.0 GiB of 4.0 GiB · 512.0 MiB/s · elapsed 0:02 · ETA 0:06");
        let text = done(6 << 20, Duration::from_secs(61));
        assert_eq!(text, "6.0 MiB in 1:01 (100.7 KiB/s)");
    }
}
