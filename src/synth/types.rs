//! Which tensor gets which type.

use crate::model::{ModelSpec, Role, TensorId};
use crate::quant::DType;

/// How a model is quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quant {
    /// Every matrix has this type.
    Pure(DType),
    /// llama.cpp's medium mixes (`Q4_K_M`, `Q5_K_M`): this type, and Q6_K for the head and for the
    /// value and down projections of some layers.
    Medium(DType),
}

impl Quant {
    /// Every quantization by its name.
    pub const ALL: [(&str, Quant); 13] = [
        ("q4_0", Quant::Pure(DType::Q4_0)),
        ("q4_1", Quant::Pure(DType::Q4_1)),
        ("q5_0", Quant::Pure(DType::Q5_0)),
        ("q5_1", Quant::Pure(DType::Q5_1)),
        ("q8_0", Quant::Pure(DType::Q8_0)),
        ("q4_k", Quant::Pure(DType::Q4K)),
        ("q5_k", Quant::Pure(DType::Q5K)),
        ("q6_k", Quant::Pure(DType::Q6K)),
        ("f16", Quant::Pure(DType::F16)),
        ("bf16", Quant::Pure(DType::BF16)),
        ("f32", Quant::Pure(DType::F32)),
        ("q4_k_m", Quant::Medium(DType::Q4K)),
        ("q5_k_m", Quant::Medium(DType::Q5K)),
    ];

    /// The quantization of this name.
    pub fn from_name(name: &str) -> Option<Quant> {
        Quant::ALL.iter().find(|(known, _)| *known == name).map(|&(_, quant)| quant)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Quant::ALL.iter().find(|(_, quant)| *quant == self).map_or("mixed", |(name, _)| name)
    }

    /// The type of a tensor; vectors stay F32.
    pub(super) fn dtype(self, spec: &ModelSpec, id: TensorId) -> DType {
        if id.role.is_vector() {
            return DType::F32;
        }
        let wanted = match self {
            Quant::Pure(dtype) => dtype,
            Quant::Medium(dtype) => medium(dtype, spec, id),
        };
        filled(wanted, spec.shape(id).1)
    }
}

/// `llama_tensor_get_type` of llama.cpp (src/llama-quant.cpp) for its medium mixes.
fn medium(base: DType, spec: &ModelSpec, id: TensorId) -> DType {
    let is_head = id.role == Role::Output || (spec.tied_head && id.role == Role::Embedding);
    let sensitive = matches!(id.role, Role::Value | Role::Down);
    let layers = spec.layers.len();
    match id.layer {
        None if is_head => DType::Q6K,
        Some(layer) if sensitive && has_more_bits(layer as usize, layers) => DType::Q6K,
        Some(_) if id.role == Role::Value && base == DType::Q4K && is_70b(spec) => DType::Q5K,
        _ => base,
    }
}

/// `use_more_bits`: the first and last eighth of the layers, and every third between.
fn has_more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

/// llama.cpp's `LLM_TYPE_70B`, known by its depth: few value heads, which get more bits.
fn is_70b(spec: &ModelSpec) -> bool {
    let grouped = spec.layers.first().is_some_and(|layer| layer.kv_heads < layer.heads);
    spec.layers.len() == 80 && grouped && matches!(spec.architecture.as_str(), "llama" | "qwen2")
}

/// The type itself, or what llama.cpp takes where rows of `cols` do not fill its blocks
/// (`tensor_type_fallback`).
fn filled(dtype: DType, cols: usize) -> DType {
    let fills = |dtype: DType| cols.is_multiple_of(dtype.block_len());
    let smaller = match dtype {
        DType::Q4K => DType::Q5_0,
        DType::Q5K => DType::Q5_1,
        DType::Q6K => DType::Q8_0,
        other => other,
    };
    if fills(dtype) {
        dtype
    } else if fills(smaller) {
        smaller
    } else {
        DType::F16
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synth::{Synthetic, shape};
    use std::collections::BTreeMap;

    fn types(name: &str, quant: &str) -> BTreeMap<DType, usize> {
        let quant = Quant::from_name(quant).expect("known");
        let model = Synthetic::new(shape(name).expect("known"), quant, 0).expect("valid");
        let mut types = BTreeMap::new();
        for (tensor, _) in &model.tensors {
            *types.entry(tensor.dtype).or_default() += 1;
        }
        types
    }

    /// The counts of published files (whose heads are stored though they are tied: one tensor of the
    /// base type more).
    #[test]
    fn mixes_are_those_of_published_files() {
        let want = [(DType::F32, 141), (DType::Q4K, 168), (DType::Q6K, 29)];
        assert_eq!(types("qwen2.5-1.5b", "q4_k_m"), want.into());
        let want = [
            (DType::F32, 121),
            (DType::Q5_0, 132),
            (DType::Q8_0, 13),
            (DType::Q4K, 12),
            (DType::Q6K, 12),
        ];
        assert_eq!(types("qwen2.5-0.5b", "q4_k_m"), want.into());
        // Llama-3-8B Q4_K_M: 193 Q4_K, 33 Q6_K, 65 F32. 70B: 441, 80 more in Q5_K and Q6_K values.
        let want = [(DType::F32, 65), (DType::Q4K, 193), (DType::Q6K, 33)];
        assert_eq!(types("llama-3-8b", "q4_k_m"), want.into());
        let want = [(DType::F32, 161), (DType::Q4K, 441), (DType::Q5K, 40), (DType::Q6K, 81)];
        assert_eq!(types("llama-3-70b", "q4_k_m"), want.into());
    }

    #[test]
    fn rows_that_do_not_fill_blocks_get_another_type() {
        // 29568 columns of the down projection are 115.5 super-blocks.
        assert_eq!(types("qwen2.5-72b", "q5_k")[&DType::Q5_1], 80);
        assert_eq!(types("qwen2.5-72b", "q4_0").len(), 2);
        assert_eq!(filled(DType::Q6K, 100), DType::F16);
        assert_eq!(filled(DType::Q8_0, 48), DType::F16);
    }

    #[test]
    fn names_go_both_ways() {
        for (name, quant) in Quant::ALL {
            assert_eq!((Quant::from_name(name), quant.name()), (Some(quant), name));
        }
        assert_eq!(Quant::from_name("q3_k"), None);
    }
}
