//! Opens a GGUF model.

use super::error::StoreError;
use super::files::{Opened, Place, TensorInfo, TensorListing, extents, places, refuse_extra};
use super::fingerprint::fingerprint;
use super::gguf::{GgufHeader, GgufTensor};
use super::hparams_gguf::gguf_hparams;
use super::parts::GgufParts;
use super::source::Source;
use super::tokenizer_gguf::gguf_vocab;
use crate::model::{ModelSpec, Role, TensorId};
use crate::quant::{DType, dequantize_row};
use crate::tokenizer::TokenizerSource;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Factors of the rotary frequencies, a tensor that no layer multiplies with.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Opens the model that the GGUF file at `path` is, or is a part of.
pub(super) fn open(path: &Path) -> Result<Opened, StoreError> {
    let parts = GgufParts::open(path)?;
    let first = parts.parts[0].0.clone();
    let shown = first.display().to_string();
    let by_name: HashMap<&str, (usize, &GgufTensor)> =
        parts.tensors().map(|(part, tensor)| (tensor.name.as_str(), (part, tensor))).collect();
    let find = |name: &str| match by_name.get(name) {
        None => Ok(None),
        Some(&(part, tensor)) => place(&parts.parts[part].0, part, tensor).map(Some),
    };
    let spec = read_spec(&shown, &parts, find)?;
    let places = places(&shown, &spec, |id| id.gguf_name(), find)?;
    check_vocabulary(&shown, parts.header(), spec.vocab)?;
    let used: HashSet<String> = spec.tensors().iter().map(TensorId::gguf_name).collect();
    let listing: Vec<_> = parts.tensors().map(|(_, tensor)| list(tensor, &used)).collect();
    refuse_extra(&shown, &listing, |_| true)?;
    let metadata = parts.header().metadata.iter();
    let metadata = metadata.map(|(key, value)| (key.clone(), value.display())).collect();
    let files: Vec<_> =
        parts.parts.iter().map(|(_, source, header)| (&**source, header.data_at)).collect();
    let factors = find(ROPE_FACTORS)?;
    let tensors = extents(places.values().chain(&factors));
    let fingerprint = fingerprint(&shown, b"", &files, tensors)?;
    let sources = parts.parts.into_iter().map(|(_, source, _)| source).collect();
    Ok(Opened { path: first, spec, sources, places, listing, metadata, fingerprint })
}

/// Reads the vocabulary of the model whose first part is `source`.
pub(super) fn tokenizer(path: &Path, source: &dyn Source) -> Result<TokenizerSource, StoreError> {
    let path = path.display().to_string();
    let header = GgufHeader::read(source, &path)?;
    Ok(TokenizerSource::Gguf(Box::new(gguf_vocab(&path, &header)?)))
}

fn read_spec(
    path: &str,
    parts: &GgufParts,
    find: impl Fn(&str) -> Result<Option<Place>, StoreError>,
) -> Result<ModelSpec, StoreError> {
    let rope_factors = match find(ROPE_FACTORS)? {
        Some(place) => Some(read_small(path, parts, &place)?),
        None => None,
    };
    let embedding = TensorId::global(Role::Embedding).gguf_name();
    let vocab = find(&embedding)?.map_or(0, |place| place.info.rows);
    let tied_head = find(&TensorId::global(Role::Output).gguf_name())?.is_none();
    let qkv_bias = find(&TensorId::of_layer(0, Role::QueryBias).gguf_name())?.is_some();
    let hparams = gguf_hparams(path, parts.header(), vocab, tied_head, qkv_bias, rope_factors)?;
    if vocab == 0 {
        let architecture = hparams.architecture;
        return Err(StoreError::MissingTensor {
            path: path.into(),
            tensor: embedding,
            architecture,
        });
    }
    ModelSpec::from_hparams(&hparams)
        .map_err(|source| StoreError::Model { path: path.to_string(), source })
}

/// The values of a short f32 vector.
fn read_small(path: &str, parts: &GgufParts, place: &Place) -> Result<Vec<f32>, StoreError> {
    let TensorInfo { dtype, rows, cols } = place.info;
    if rows != 1 || cols > 1 << 16 || dtype != DType::F32 {
        let found = format!("{rows} x {cols} {dtype}");
        let at = format!("tensor `{}`", place.name);
        return Err(StoreError::malformed(path, at, "a vector of F32", found));
    }
    let mut bytes = vec![0; dtype.row_bytes(cols)];
    parts.parts[place.source].1.read_at(place.offset, &mut bytes).map_err(|source| {
        StoreError::Io { path: path.to_string(), action: "read rope_freqs.weight", source }
    })?;
    let mut values = vec![0.0; cols];
    dequantize_row(dtype, &bytes, &mut values);
    Ok(values)
}

fn place(path: &Path, part: usize, tensor: &GgufTensor) -> Result<Place, StoreError> {
    let Some(dtype) = tensor.dtype() else {
        return Err(StoreError::TensorType {
            path: path.display().to_string(),
            tensor: tensor.name.clone(),
            found: tensor.type_name(),
        });
    };
    let (rows, cols) = tensor.shape();
    let info = TensorInfo { dtype, rows, cols };
    Ok(Place { info, source: part, offset: tensor.offset, name: tensor.name.clone() })
}

/// Every token needs a row of the embedding; more rows than tokens are padding.
fn check_vocabulary(path: &str, header: &GgufHeader, rows: usize) -> Result<(), StoreError> {
    let tokens = header.get("tokenizer.ggml.tokens").and_then(|v| v.texts()).map_or(0, <[_]>::len);
    if tokens <= rows {
        return Ok(());
    }
    let at = "key `tokenizer.ggml.tokens`";
    let expected = format!("at most {rows} tokens, the rows of token_embd.weight");
    Err(StoreError::malformed(path, at, expected, tokens))
}

fn list(tensor: &GgufTensor, used: &HashSet<String>) -> TensorListing {
    TensorListing {
        name: tensor.name.clone(),
        dtype: tensor.type_name(),
        shape: tensor.dims.iter().rev().copied().collect(),
        bytes: tensor.bytes,
        used: used.contains(&tensor.name) || tensor.name == ROPE_FACTORS,
    }
}
