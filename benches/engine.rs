//! Whole passes on a real model: `cargo bench --bench engine -- MODEL.gguf [requests prompt generate]`.
//! One CSV row per run: what is measured is passes only, not loading.

use forebay::backend::cpu::CpuDevice;
use forebay::exec::{Executor, ExecutorConfig};
use forebay::generate::{Engine, EngineConfig, Request};
use forebay::kernel::PAGE_LEN;
use forebay::sample::SamplingParams;
use forebay::store::ModelFiles;
use forebay::tokenizer::Tokenizer;
use std::io::{self, Write};
use std::sync::Arc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let Some(model) = args.first() else {
        eprintln!("usage: cargo bench --bench engine -- MODEL [requests prompt generate]");
        return Ok(());
    };
    let number = |at: usize, default: usize| args.get(at).map_or(Ok(default), |arg| arg.parse());
    let (requests, prompt, generate) = (number(1, 32)?, number(2, 64)?, number(3, 32)?);
    let files = Arc::new(ModelFiles::open(model)?);
    let tokenizer = Tokenizer::new(&files.tokenizer_source()?)?;
    let context_len = prompt + generate + 1;
    let config = EngineConfig { batch: requests, prefill_chunk: 512, context_len, tree_budget: 0 };
    let pages = requests * context_len.div_ceil(PAGE_LEN);
    let device = Box::new(CpuDevice::new(None)?);
    let sizes = ExecutorConfig::resident(config.rows(), pages);
    let executor = Executor::new(device, files, sizes, &mut |_, _| {})?;
    let mut engine = Engine::new(executor, &tokenizer, config);
    for id in 0..requests as u64 {
        engine.submit(Request {
            id,
            prompt: (0..prompt as u64)
                .map(|i| (1000 + (id * 131 + i * 97) % 20000) as u32)
                .collect(),
            sampling: SamplingParams::default(),
            choice: 0,
            max_tokens: generate,
            stop: Vec::new(),
            ignore_eos: true,
        })?;
    }
    while !engine.is_idle() {
        engine.step()?;
    }
    let stats = engine.stats();
    let (prefill, decode) = (stats.prefill.as_secs_f64(), stats.decode.as_secs_f64());
    let rate = (requests * (prompt + generate)) as f64 / (prefill + decode);
    let out = &mut io::stdout();
    writeln!(out, "model,requests,prompt,generate,prefill_s,decode_s,tokens_per_s")?;
    writeln!(out, "{model},{requests},{prompt},{generate},{prefill:.3},{decode:.3},{rate:.1}")?;
    Ok(())
}
