//! `forebay eval perplexity`.

use super::args::PerplexityArgs;
use super::engine::Model;
use super::exit::{CliError, DONE};
use super::{device, log, shell};
use crate::exec::{Executor, ExecutorConfig};
use crate::generate::{Perplexity, perplexity};
use crate::kernel::{KvFormat, PAGE_LEN};
use crate::tokenizer::Special;
use anyhow::Context;
use serde_json::json;
use std::sync::Arc;

/// Measures the perplexity of a text.
pub(super) fn eval(args: &PerplexityArgs, quiet: bool) -> anyhow::Result<u8> {
    let name = args.file.display();
    let text =
        std::fs::read_to_string(&args.file).with_context(|| format!("cannot read {name}"))?;
    let model = Model::open(&args.model.model)?;
    let own = model.files.spec().context_len;
    if args.ctx > own {
        let message = format!("--ctx {}: the model was made for {own} positions", args.ctx);
        return Err(CliError::Usage(message).into());
    }
    let tokenizer = &model.tokenizer;
    // What a prompt without text begins with.
    let prefix = tokenizer.encode("", Special::Parse)?;
    let bos = tokenizer.bos().filter(|bos| prefix.first() == Some(bos));
    let mut tokens: Vec<u32> = bos.into_iter().collect();
    tokens.extend(tokenizer.encode(&text, Special::Plain)?);
    if tokens.len() < args.ctx {
        let (count, ctx) = (tokens.len(), args.ctx);
        let remedy = if count < 4 { "it is all but empty" } else { "lower --ctx" };
        let message = format!("{name} has {count} tokens, and a chunk has {ctx}; {remedy}");
        return Err(CliError::Usage(message).into());
    }
    let device = device::open(&args.device, args.threads)?;
    let info = device.info().clone();
    let kv_format = KvFormat::from_name(&args.kv_format).unwrap_or_default();
    let config = ExecutorConfig::resident(args.ctx, args.ctx.div_ceil(PAGE_LEN));
    let config = ExecutorConfig { kv_format, ..config };
    let files = Arc::clone(&model.files);
    let mut executor = Executor::new(device, files, config, &mut |_, _| {})?;
    let chunks_max = args.chunks.unwrap_or(usize::MAX);
    let mut show = |so_far: &Perplexity| {
        if !quiet {
            log::say(&format!("chunk {}: {:.4}", so_far.chunks, so_far.value));
        }
    };
    let result = perplexity(&mut executor, &tokens, bos, args.ctx, chunks_max, &mut show)?;
    let text = if args.json {
        let value = json!({
            "perplexity": result.value,
            "error": result.error,
            "chunks": result.chunks,
            "tokens": result.tokens,
            "ctx": args.ctx,
            "kv_format": kv_format.name(),
            "model": model.name,
            "file": name.to_string(),
            "device": info.name,
            "device_kind": info.kind.to_string(),
        });
        format!("{value:#}\n")
    } else {
        let Perplexity { value, error, chunks, .. } = result;
        format!("perplexity {value:.4} ± {error:.4} ({chunks} chunks of {})\n", args.ctx)
    };
    shell::print(text.as_bytes())?;
    Ok(DONE)
}
