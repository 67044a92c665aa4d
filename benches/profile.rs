//! Predicted beside measured: `cargo bench --bench profile [-- MODEL.gguf ... [--quick] [--threads=N] [--disk=DIR]]`.
//!
//! Calibrates the cpu device, then sums the profile's rates over the matrices, attention and everything
//! else of real passes, and prints them beside what the passes took: CSV, terms in milliseconds. One
//! thread's time is taken on the core, so that other programs count for little.

use forebay::backend::cpu::CpuDevice;
use forebay::exec::{Executor, ExecutorConfig};
use forebay::kernel::PAGE_LEN;
use forebay::model::{LayerSpec, Role, TensorId};
use forebay::profile::{Clock, DiskPlace, Effort, Settings, calibrate};
use forebay::sample::{History, NoiseKey, Sampler, SamplingParams};
use forebay::schedule::{Batch, Span};
use forebay::store::ModelFiles;
use forebay_planner::{DeviceRates, HardwareProfile};
use std::io::Write;
use std::sync::Arc;

type Error = Box<dyn std::error::Error>;

/// Passes of each kind, at least and at most, and seconds after which the least must do.
const REPEATS: [usize; 2] = [3, 12];
const SECONDS_MAX: f64 = 90.0;

/// (name, decoding sequences, positions that each has, rows of a prompt).
const PASSES: [(&str, usize, usize, usize); 7] = [
    ("decode", 32, 256, 0),
    ("decode", 8, 256, 0),
    ("decode", 1, 256, 0),
    ("long decode", 32, 1024, 0),
    ("prefill", 0, 0, 512),
    ("prefill", 0, 0, 128),
    ("mixed", 16, 256, 128),
];

fn main() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let quick = args.iter().any(|arg| arg == "--quick");
    let folder = args.iter().find_map(|arg| arg.strip_prefix("--disk=")).unwrap_or(".");
    let effort = if quick { Effort::Quick } else { Effort::Full };
    let threads = args.iter().find_map(|arg| arg.strip_prefix("--threads=")?.parse().ok());
    let clock = if threads == Some(1) { Clock::OnCore } else { Clock::Wall };
    let mut device = CpuDevice::new(threads)?;
    let place = DiskPlace::folder_of(folder);
    let found = calibrate(&mut device, None, &place, Settings { effort, clock }, &mut |_| {})?;
    drop(device);
    eprintln!("calibrated in {:.1} s, noise {:.2}", found.seconds, found.noise);
    print_rates(&found.profile.device);
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "model,pass,rows,predicted,linear,attention,elementwise,head,host,fixed,measured,error_percent"
    )?;
    for model in args.iter().filter(|arg| !arg.starts_with("--")) {
        measure(model, &found.profile, (threads, clock), &mut out)?;
    }
    Ok(())
}

/// What was measured, on stderr.
fn print_rates(rates: &DeviceRates) {
    for rate in &rates.linear {
        let points: Vec<String> =
            rate.points.iter().map(|(rows, s)| format!("{rows}: {:.2}", s * 1e12)).collect();
        eprintln!("{} ps per element: {}", rate.dtype, points.join(", "));
    }
    eprintln!("{:?}", DeviceRates { linear: Vec::new(), ..rates.clone() });
}

fn measure(
    model: &str,
    profile: &HardwareProfile,
    (threads, clock): (Option<usize>, Clock),
    out: &mut impl Write,
) -> Result<(), Error> {
    let files = Arc::new(ModelFiles::open(model)?);
    let pages_of = |positions: usize| positions.div_ceil(PAGE_LEN);
    let most = |f: &dyn Fn(usize, usize, usize) -> usize| {
        PASSES.iter().map(|&(_, n, len, prompt)| f(n, len, prompt)).max().unwrap_or(0)
    };
    let rows = most(&|n, _, prompt| n + prompt);
    let pages = most(&|n, len, prompt| n * pages_of(len) + pages_of(prompt));
    let device = Box::new(CpuDevice::new(threads)?);
    let config = ExecutorConfig::resident(rows, pages);
    let mut executor = Executor::new(device, Arc::clone(&files), config, &mut |_, _| {})?;
    let mut sampler = Sampler::default();
    let batches: Vec<Batch> =
        PASSES.iter().map(|&(_, n, len, prompt)| batch(n, len, prompt)).collect();
    let mut times = vec![Vec::new(); PASSES.len()];
    let begin = std::time::Instant::now();
    for round in 0..=REPEATS[1] {
        if round > REPEATS[0] && begin.elapsed().as_secs_f64() > SECONDS_MAX {
            break;
        }
        for (times, batch) in times.iter_mut().zip(&batches) {
            let start = clock.now();
            executor
                .pass(batch, &mut |_, logits| sample(&mut sampler, logits, files.spec().vocab))?;
            // The first round touches everything for the first time.
            if round > 0 {
                times.push(clock.now() - start);
            }
        }
    }
    let name = std::path::Path::new(model).file_stem().unwrap_or_default().to_string_lossy();
    for (((pass, ..), batch), times) in PASSES.iter().zip(&batches).zip(&times) {
        // As the rates are: other programs only add time.
        let measured = times.iter().copied().fold(f64::INFINITY, f64::min);
        let terms = predict(&profile.device, &files, batch);
        let predicted: f64 = terms.iter().sum();
        let [predicted_ms, measured_ms] = [predicted, measured].map(|seconds| seconds * 1e3);
        let terms: Vec<String> = terms.iter().map(|term| format!("{:.2}", term * 1e3)).collect();
        let (rows, terms) = (batch.rows(), terms.join(","));
        let error = (predicted / measured - 1.0) * 100.0;
        writeln!(
            out,
            "{name},{pass},{rows},{predicted_ms:.1},{terms},{measured_ms:.1},{error:+.1}"
        )?;
    }
    Ok(())
}

fn sample(sampler: &mut Sampler, logits: &[f32], vocab: usize) {
    let params = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
    for (position, logits) in logits.chunks_exact(vocab).enumerate() {
        let noise = NoiseKey::new(0, 0, position);
        std::hint::black_box(sampler.sample(&params, logits, &History::default(), noise));
    }
}

/// `sequences` that decode the last of `length` positions, and the start of a prompt of `prompt` rows
/// whose last wants logits.
fn batch(sequences: usize, length: usize, prompt: usize) -> Batch {
    let mut batch = Batch::default();
    let mut page = 0;
    let mut pages = |positions: usize| -> Vec<u32> {
        let first = page;
        page += positions.div_ceil(PAGE_LEN) as u32;
        (first..page).collect()
    };
    for sequence in 0..sequences {
        let token = [1000 + sequence as u32 * 131];
        let pages = pages(length);
        batch.push(Span {
            tokens: &token,
            start: length - 1,
            pages: &pages,
            logits: 1,
            moves: &[],
        });
    }
    if prompt > 0 {
        let tokens: Vec<u32> = (0..prompt as u32).map(|i| 1000 + i * 97 % 20000).collect();
        batch.push(Span {
            tokens: &tokens,
            start: 0,
            pages: &pages(prompt),
            logits: 1,
            moves: &[],
        });
    }
    batch
}

/// Seconds of a pass by the profile: linear, attention, elementwise, head, host, fixed.
fn predict(rates: &DeviceRates, files: &ModelFiles, batch: &Batch) -> [f64; 6] {
    let spec = files.spec();
    let (rows, outputs) = (batch.rows(), batch.outputs.len());
    let seen: usize = batch.map.iter().map(|row| row.length as usize).sum();
    // A row that wants logits is the last of its sequence.
    let held: usize =
        batch.outputs.iter().map(|&row| batch.map[row as usize].length as usize).sum();
    let matrix = |id: TensorId, rows: usize| {
        let info = files.tensor(id).expect("the network has it");
        let rate = rates.linear(&info.dtype.to_string()).expect("something was measured");
        (info.rows * info.cols) as f64 * rate.seconds(rows)
    };
    let roles = [
        Role::Query,
        Role::Key,
        Role::Value,
        Role::AttentionOutput,
        Role::Gate,
        Role::Up,
        Role::Down,
    ];
    let (mut linear, mut attention, mut touched, mut calls) = (0.0, 0.0, 0, 0);
    for (index, layer) in spec.layers.iter().enumerate() {
        linear +=
            roles.iter().map(|&role| matrix(TensorId::of_layer(index, role), rows)).sum::<f64>();
        attention += attend(rates, layer, held, seen);
        let (h, ff) = (spec.hidden, layer.feed_forward);
        let (q, kv) = (layer.heads * layer.head_dim, layer.kv_heads * layer.head_dim);
        let (qk_norm, post) = (usize::from(layer.qk_norm), usize::from(layer.post_norms));
        touched +=
            rows * (10 * h + 2 * q + 4 * kv + 3 * ff + qk_norm * 2 * (q + kv) + post * 4 * h);
        calls += 13 + 2 * qk_norm + 2 * post;
    }
    let head = if spec.tied_head { Role::Embedding } else { Role::Output };
    let logits = (outputs * spec.vocab) as f64 * rates.logit_seconds;
    let head = matrix(TensorId::global(head), outputs);
    let host = rows as f64 * rates.embed_seconds + logits;
    let fixed = rates.pass_seconds
        + (2 * spec.layers.len() + 1) as f64 * rates.run_seconds
        + (calls + 3) as f64 * rates.call_seconds;
    [linear, attention, touched as f64 * rates.elementwise_seconds, head, host, fixed]
}

fn attend(rates: &DeviceRates, layer: &LayerSpec, held: usize, seen: usize) -> f64 {
    let rate = rates.attention("f16").expect("it was measured");
    let elements = |positions: usize, heads: usize| (positions * 2 * heads * layer.head_dim) as f64;
    elements(held, layer.kv_heads) * rate.stream_seconds
        + elements(seen, layer.kv_heads) * rate.kv_element_seconds
        + elements(seen, layer.heads) * rate.product_seconds
}
