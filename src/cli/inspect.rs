//! `forebay inspect`.

use super::args::InspectArgs;
use super::exit::DONE;
use super::shell;
use crate::kernel::{KvFormat, PAGE_LEN};
use crate::store::{ModelFiles, TensorListing};
use bytesize::ByteSize;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Shows what a model's files say.
pub(super) fn inspect(args: &InspectArgs) -> anyhow::Result<u8> {
    let files = ModelFiles::open(&args.model)?;
    let text = if args.json { format!("{:#}\n", json_of(&files)) } else { text_of(&files) };
    shell::print(text.as_bytes())?;
    Ok(DONE)
}

/// Bytes that one position takes in the KV cache of all layers.
fn cache_bytes(files: &ModelFiles) -> usize {
    let layers = &files.spec().layers;
    layers.iter().map(|layer| layer.cache(KvFormat::F16).page_bytes() / PAGE_LEN).sum()
}

/// Bytes and tensors by type.
fn types(tensors: &[TensorListing]) -> BTreeMap<&str, (usize, u64)> {
    let mut types = BTreeMap::new();
    for tensor in tensors {
        let entry: &mut (usize, u64) = types.entry(tensor.dtype.as_str()).or_default();
        entry.0 += 1;
        entry.1 += tensor.bytes;
    }
    types
}

pub(super) fn parameters(tensors: &[TensorListing]) -> u64 {
    tensors.iter().filter(|t| t.used).map(|t| t.shape.iter().product::<u64>()).sum()
}

fn text_of(files: &ModelFiles) -> String {
    let spec = files.spec();
    let iec = |bytes: u64| ByteSize(bytes).display().iec().to_string();
    let mut text = String::new();
    let mut row = |key: &str, value: String| {
        writeln!(text, "{key:<16}{value}").expect("writing to a string");
    };
    row("path", files.path().display().to_string());
    row("name", spec.name.clone());
    row("architecture", spec.architecture.clone());
    row("parameters", format!("{:.1} M", parameters(files.tensors()) as f64 / 1e6));
    row("weights", iec(files.total_bytes()));
    row("context", format!("{} tokens", spec.context_len));
    row("vocabulary", format!("{}{}", spec.vocab, if spec.tied_head { ", tied head" } else { "" }));
    if let Some(layer) = spec.layers.first() {
        let (heads, kv_heads, dim) = (layer.heads, layer.kv_heads, layer.head_dim);
        row("layers", format!("{} of width {}", spec.layers.len(), spec.hidden));
        row("attention", format!("{heads} heads, {kv_heads} for keys and values, of {dim}"));
        row("feed-forward", format!("{} wide", layer.feed_forward));
    }
    let windows = spec.layers.iter().filter(|layer| layer.window.is_some()).count();
    if windows > 0 {
        let window = spec.layers.iter().find_map(|layer| layer.window).unwrap_or(0);
        row("sliding window", format!("{window} tokens in {windows} layers"));
    }
    row("KV cache", format!("{} a token", iec(cache_bytes(files) as u64)));
    for (name, (count, bytes)) in types(files.tensors()) {
        row(&format!("  {name}"), format!("{count} tensors, {}", iec(bytes)));
    }
    row("fingerprint", files.fingerprint());
    let mut tensors = plain_table(["tensor", "type", "shape", "bytes", ""]);
    if let Some(column) = tensors.column_mut(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for tensor in files.tensors() {
        let shape: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
        tensors.add_row([
            tensor.name.clone(),
            tensor.dtype.clone(),
            shape.join(" x "),
            tensor.bytes.to_string(),
            if tensor.used { "" } else { "not used" }.to_string(),
        ]);
    }
    let mut metadata = plain_table(["key", "value"]);
    for (key, value) in files.metadata() {
        metadata.add_row([key, value]);
    }
    format!("{text}\n{metadata}\n\n{tensors}\n")
}

fn plain_table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    table
}

fn json_of(files: &ModelFiles) -> Value {
    let spec = files.spec();
    let layers: Vec<Value> = spec
        .layers
        .iter()
        .map(|layer| {
            json!({
                "heads": layer.heads,
                "kv_heads": layer.kv_heads,
                "head_dim": layer.head_dim,
                "feed_forward": layer.feed_forward,
                "window": layer.window,
            })
        })
        .collect();
    let tensors: Vec<Value> = files
        .tensors()
        .iter()
        .map(|tensor| {
            json!({
                "name": tensor.name,
                "type": tensor.dtype,
                "shape": tensor.shape,
                "bytes": tensor.bytes,
                "used": tensor.used,
            })
        })
        .collect();
    let metadata: Map<String, Value> =
        files.metadata().iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
    json!({
        "path": files.path().display().to_string(),
        "name": spec.name,
        "architecture": spec.architecture,
        "fingerprint": files.fingerprint(),
        "parameters": parameters(files.tensors()),
        "weights_bytes": files.total_bytes(),
        "cache_bytes_per_token": cache_bytes(files),
        "context_len": spec.context_len,
        "hidden": spec.hidden,
        "vocab": spec.vocab,
        "tied_head": spec.tied_head,
        "layers": layers,
        "metadata": metadata,
        "tensors": tensors,
    })
}
