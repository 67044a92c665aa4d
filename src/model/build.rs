//! From hyperparameters to the one description of a network.

use super::hparams::{Convention, in_range, out_of_range};
use super::rope::rope_table;
use super::{Family, Hparams, LayerSpec, ModelError, ModelSpec, RopeScaling, RopeSpec};
use crate::kernel::RopeStyle;

/// Rotary base where a file is silent (llama.cpp and transformers agree).
const ROPE_BASE: f64 = 10_000.0;

impl ModelSpec {
    /// Applies the family's rules to what a header says.
    pub fn from_hparams(hparams: &Hparams) -> Result<ModelSpec, ModelError> {
        let family = Family::find(&hparams.architecture)?;
        hparams.check()?;
        check_activation(family, hparams)?;
        let head_dim = head_dim(hparams)?;
        let ropes = ropes(family, hparams, head_dim)?;
        let layers = (0..hparams.layers)
            .map(|index| layer(family, hparams, head_dim, index, ropes.len() - 1))
            .collect::<Result<_, _>>()?;
        let hugging_face = hparams.convention == Convention::HuggingFace;
        Ok(ModelSpec {
            architecture: family.name.to_string(),
            name: hparams.name.clone(),
            hidden: hparams.hidden,
            vocab: hparams.vocab,
            context_len: hparams.context_len,
            norm_eps: hparams.norm_eps as f32,
            norm_offset: if hugging_face { family.hf_norm_offset } else { 0.0 },
            embed_scale: if family.scaled_embedding { (hparams.hidden as f32).sqrt() } else { 1.0 },
            tied_head: hparams.tied_head.unwrap_or(family.hf_tied),
            ropes,
            layers,
        })
    }
}

fn check_activation(family: &Family, hparams: &Hparams) -> Result<(), ModelError> {
    match &hparams.activation {
        Some(name) if !family.activation_names.contains(&name.as_str()) => {
            Err(ModelError::Unsupported {
                field: "hidden_act".into(),
                found: format!("`{name}`"),
                remedy: format!("{} computes {}", family.name, family.activation_names[0]),
            })
        }
        _ => Ok(()),
    }
}

/// Width of every layer's heads: kernels want keys and values alike.
fn head_dim(hparams: &Hparams) -> Result<usize, ModelError> {
    let heads = hparams.of_layer("number of heads", &hparams.heads, 0, 1 << 14)?;
    let key = hparams.key_dim.unwrap_or(hparams.hidden / heads);
    let value = hparams.value_dim.unwrap_or(key);
    if key != value {
        return Err(ModelError::Unsupported {
            field: "value head width".into(),
            found: format!("{value} while the key head width is {key}"),
            remedy: "use a model whose key and value heads are equally wide".into(),
        });
    }
    in_range("head width", key, 2, 1 << 12)?;
    Ok(key)
}

/// The tables: for layers without a window, then for those with one where it differs.
fn ropes(family: &Family, hparams: &Hparams, head_dim: usize) -> Result<Vec<RopeSpec>, ModelError> {
    let rotary_dim = hparams.rotary_dim.unwrap_or(head_dim);
    if !(2..=head_dim).contains(&rotary_dim) || !rotary_dim.is_multiple_of(2) {
        let expected = format!("an even number up to the head width {head_dim}");
        return Err(out_of_range("number of rotated elements", rotary_dim, &expected));
    }
    let style = match hparams.convention {
        Convention::Gguf => family.gguf_rope,
        Convention::HuggingFace => RopeStyle::Halves,
    };
    let base = hparams.rope_base.unwrap_or(ROPE_BASE);
    let mut ropes = vec![rope_table(style, rotary_dim, base, &hparams.rope_scaling)?];
    if let Some(default) = family.local_rope_base {
        let base = hparams.rope_base_local.unwrap_or(default);
        ropes.push(rope_table(style, rotary_dim, base, &RopeScaling::None)?);
    }
    Ok(ropes)
}

fn layer(
    family: &Family,
    hparams: &Hparams,
    head_dim: usize,
    index: usize,
    local_rope: usize,
) -> Result<LayerSpec, ModelError> {
    let heads = hparams.of_layer("number of heads", &hparams.heads, index, 1 << 14)?;
    let kv_heads = match hparams.kv_heads.as_slice() {
        [] => heads,
        list => hparams.of_layer("number of key/value heads", list, index, heads)?,
    };
    if !heads.is_multiple_of(kv_heads) {
        let expected = format!("a divisor of the {heads} query heads");
        return Err(out_of_range("number of key/value heads", kv_heads, &expected));
    }
    let window = window(family, hparams, index)?;
    let scalar = match (hparams.query_scalar, family.query_scalar_by_hidden) {
        (Some(scalar), _) => scalar,
        (None, Some(layers))
            if layers == hparams.layers && hparams.convention == Convention::Gguf =>
        {
            (hparams.hidden / heads) as f64
        }
        _ => head_dim as f64,
    };
    Ok(LayerSpec {
        heads,
        kv_heads,
        head_dim,
        feed_forward: hparams.of_layer(
            "feed-forward width",
            &hparams.feed_forward,
            index,
            1 << 24,
        )?,
        window,
        rope: if window.is_some() { local_rope } else { 0 },
        attention_scale: 1.0 / (scalar as f32).sqrt(),
        activation: family.activation,
        qkv_bias: family.qkv_bias,
        qk_norm: family.qk_norm,
        post_norms: family.post_norms,
    })
}

/// The window of layer `index`: by the file's own list, else by the pattern, else on every layer.
fn window(family: &Family, hparams: &Hparams, index: usize) -> Result<Option<usize>, ModelError> {
    let Some(window) = hparams.window else { return Ok(None) };
    let windowed = match (&hparams.windowed_layers, hparams.window_pattern) {
        (Some(list), _) if list.len() == hparams.layers => list[index],
        (Some(list), _) => {
            let expected = format!("{}, one a layer", hparams.layers);
            return Err(out_of_range("length of the list of layer types", list.len(), &expected));
        }
        (None, pattern) => {
            pattern.or(family.window_pattern).is_none_or(|n| !(index + 1).is_multiple_of(n))
        }
    };
    Ok(windowed.then_some(window))
}
