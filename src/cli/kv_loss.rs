//! `--kv-format auto`: the smallest format whose loss on this model and device was measured to be small.

use super::engine::Model;
use super::exit::CliError;
use super::flags::EngineArgs;
use super::kv;
use super::prepare::Setup;
use super::progress::Display;
use super::{cache, log};
use crate::generate::perplexity;
use crate::job::{Lengths, Survey};
use crate::kernel::KvFormat;
use crate::tokenizer::Special;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What is read to measure: prose, code, dialogue, instructions.
pub(super) const TEXT: &str = include_str!("texts/kv_loss.txt");

/// Positions of a chunk, of which the second half is scored, and chunks.
const CONTEXT: usize = 512;
const CHUNKS: usize = 2;

/// Sequences to plan for: as many rows of logits fit a pass.
const BATCH: usize = 32;

/// Chooses by what was measured once for this model and kind of device; no budget takes part in it.
pub(super) fn choose(setup: &Setup<'_>) -> anyhow::Result<KvFormat> {
    let kind = setup.open_device()?.info().kind.to_string();
    let key = (env!("CARGO_PKG_VERSION"), setup.model.files.fingerprint(), &kind, TEXT);
    let path = cache::file("kv-loss", format!("{key:?}").as_bytes());
    let found = match path.as_deref().and_then(load) {
        Some(found) => found,
        None => {
            let found = measure(setup)?;
            keep(&found, setup.model, &kind, path);
            found
        }
    };
    let format = smallest(&found, setup.engine.kv_loss);
    if !setup.quiet {
        let losses = KvFormat::ALL.iter().zip(found).skip(1);
        let losses: Vec<String> = losses
            .map(|(f, value)| format!("{f} {:+.2} %", (value / found[0] - 1.0) * 100.0))
            .collect();
        let losses = losses.join(", ");
        log::say(&format!("forebay: --kv-format auto takes {format}; perplexity: {losses}"));
    }
    Ok(format)
}

/// The smallest of the formats that lose less than `most`.
fn smallest(perplexities: &[f64; 3], most: f64) -> KvFormat {
    let losses = perplexities.map(|value| value / perplexities[0] - 1.0);
    let mut each = KvFormat::ALL.into_iter().zip(losses).skip(1);
    each.rfind(|(_, loss)| *loss < most).map_or(KvFormat::F16, |(format, _)| format)
}

/// Perplexities in each of [`KvFormat::ALL`].
fn measure(setup: &Setup<'_>) -> anyhow::Result<[f64; 3]> {
    let (model, context) = (setup.model, CONTEXT.min(setup.model.files.spec().context_len));
    let tokenizer = &model.tokenizer;
    let prefix = tokenizer.encode("", Special::Parse)?;
    let bos = tokenizer.bos().filter(|bos| prefix.first() == Some(bos));
    let mut tokens: Vec<u32> = bos.into_iter().collect();
    tokens.extend(tokenizer.encode(TEXT, Special::Plain)?);
    if tokens.len() < context || context < 4 {
        let why = "the text that --kv-format auto measures with is too short for this model; name \
                   a format";
        return Err(CliError::Usage(why.into()).into());
    }
    if !setup.quiet {
        log::say(
            "forebay: what compressed keys and values lose on this model is not known yet; \
             measuring it once",
        );
    }
    let engine = EngineArgs {
        batch: Some(BATCH),
        micro_batch: None,
        prefill_chunk: Some(context),
        ..setup.engine.clone()
    };
    let lengths = Lengths { prompt: context - 1, output_max: 1, fixed: true, count: BATCH };
    let survey = Survey { requests: vec![lengths], longest: context, ..Survey::default() };
    let mut found = [0.0; 3];
    for (kv_format, found) in KvFormat::ALL.into_iter().zip(&mut found) {
        let mut display = Display::new(setup.quiet);
        let own = Setup {
            engine: &engine,
            context_len: context,
            kv_format,
            draft: None,
            trace: false,
            ..*setup
        };
        let mut executor = own.ready(setup.open_device()?, &survey, &mut display)?.executor;
        let mut show = |_: &_| display.note(&format!("perplexity, {kv_format}"));
        let value = perplexity(&mut executor, &tokens, bos, context, CHUNKS, &mut show)?.value;
        *found = value;
    }
    Ok(found)
}

fn load(path: &Path) -> Option<[f64; 3]> {
    let value: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let of = |format: KvFormat| value["perplexity"][format.name()].as_f64();
    let found = KvFormat::ALL.map(of).map(|value| value.filter(|v| v.is_finite() && *v > 0.0));
    let [Some(a), Some(b), Some(c)] = found else { return None };
    Some([a, b, c])
}

/// Without a cache, the next run measures again.
fn keep(found: &[f64; 3], model: &Model, device_kind: &str, path: Option<PathBuf>) {
    let Some(path) = path else { return };
    let each = KvFormat::ALL.iter().zip(found).map(|(f, value)| (f.name().into(), json!(value)));
    let value = json!({
        "model": model.name,
        "fingerprint": model.files.fingerprint(),
        "device_kind": device_kind,
        "perplexity": each.collect::<serde_json::Map<String, Value>>(),
    });
    let stored = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    if let Err(error) = stored.and_then(|()| std::fs::write(&path, format!("{value:#}\n"))) {
        tracing::warn!("what was measured for --kv-format {} is not kept: {error}", kv::AUTO);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_format_under_the_bound_is_taken() {
        assert_eq!(smallest(&[10.0, 10.05, 10.2], 0.01), KvFormat::K8V4);
        assert_eq!(smallest(&[10.0, 9.9, 10.05], 0.01), KvFormat::Q4);
        assert_eq!(smallest(&[10.0, 10.5, f64::NAN], 0.01), KvFormat::F16);
        assert_eq!(smallest(&[10.0, 10.5, 10.01], 0.01), KvFormat::Q4);
    }

    #[test]
    fn what_was_measured_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b.json");
        assert_eq!(load(&path), None);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = "{\"perplexity\":{\"f16\":10.0,\"k8v4\":10.5,\"q4\":11.0}}";
        std::fs::write(&path, text).unwrap();
        assert_eq!(load(&path), Some([10.0, 10.5, 11.0]));
        std::fs::write(&path, "{\"perplexity\":{\"f16\":10.0").unwrap();
        assert_eq!(load(&path), None, "a torn file is measured again");
    }
}
