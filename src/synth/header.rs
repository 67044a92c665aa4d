//! The keys of a header: the inverse of how the store reads them.

use super::{Synthetic, vocabulary};
use crate::model::{Hparams, RopeScaling};
use crate::store::gguf::{Kind, Value};

/// Every key of the file, in order.
pub(super) fn metadata(model: &Synthetic) -> Vec<(String, Value)> {
    let Synthetic { hparams, spec, quant, seed, .. } = model;
    let architecture = &spec.architecture;
    let about = format!("synthetic: pseudo-random weights, {}, seed {seed}", quant.name());
    let general = [
        ("architecture", Value::text(architecture)),
        ("name", Value::text(format!("synthetic {}", hparams.name))),
        ("description", Value::text(about)),
        ("quantization_version", Value::u32(2)),
    ];
    let mut keys: Vec<_> =
        general.map(|(key, value)| (format!("general.{key}"), value)).into_iter().collect();
    keys.extend(network(model).into_iter().map(|(key, v)| (format!("{architecture}.{key}"), v)));
    vocabulary::put(hparams.vocab, &mut keys);
    keys
}

/// The keys below the architecture's name.
fn network(model: &Synthetic) -> Vec<(&'static str, Value)> {
    let Synthetic { hparams, spec, .. } = model;
    // Sizes are bounded by `Hparams` far below 2^32.
    let size = |size: usize| Value::u32(size as u32);
    let layer = &spec.layers[0];
    let mut keys = vec![
        ("context_length", size(spec.context_len)),
        ("embedding_length", size(spec.hidden)),
        ("block_count", size(spec.layers.len())),
        ("feed_forward_length", size(layer.feed_forward)),
        ("attention.head_count", size(layer.heads)),
        ("attention.head_count_kv", size(layer.kv_heads)),
        ("attention.key_length", size(layer.head_dim)),
        ("attention.value_length", size(layer.head_dim)),
        ("attention.layer_norm_rms_epsilon", Value::f32(spec.norm_eps)),
        ("rope.dimension_count", size(2 * spec.ropes[0].inv_freq.len())),
        ("vocab_size", size(spec.vocab)),
    ];
    let bases =
        [("rope.freq_base", hparams.rope_base), ("rope.freq_base_swa", hparams.rope_base_local)];
    keys.extend(bases.into_iter().filter_map(|(key, base)| Some((key, Value::f32(base? as f32)))));
    if let RopeScaling::Linear(factor) = hparams.rope_scaling {
        keys.push(("rope.scaling.type", Value::text("linear")));
        keys.push(("rope.scaling.factor", Value::f32(factor as f32)));
    }
    keys.extend(window(hparams));
    keys
}

fn window(hparams: &Hparams) -> Vec<(&'static str, Value)> {
    let Some(window) = hparams.window else { return Vec::new() };
    let mut keys = vec![("attention.sliding_window", Value::u32(window as u32))];
    let pattern = match (&hparams.windowed_layers, hparams.window_pattern) {
        (Some(layers), _) => {
            Some(Value::Numbers(Kind::Bool, layers.iter().map(|&l| u8::from(l)).collect()))
        }
        (None, pattern) => pattern.map(|period| Value::u32(period as u32)),
    };
    keys.extend(pattern.map(|pattern| ("attention.sliding_window_pattern", pattern)));
    keys
}
