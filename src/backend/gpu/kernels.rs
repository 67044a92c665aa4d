//! The table of kernels: which files make up each shader, and what it binds.

use super::params;
use crate::quant::DType;

macro_rules! shaders {
    ($folder:literal: $($name:literal)*) => {
        &[$(($name, include_str!(concat!("../../../shaders/", $folder, $name, ".wgsl")))),*]
    };
}

const ENTRIES: &[(&str, &str)] = shaders!("": "add" "append" "attention_lanes" "gate" "gather"
    "matmul_float" "matmul_lanes" "matvec_float" "matvec_lanes" "quantize_rows" "rms_norm"
    "rms_norm_lanes" "rope");

const FRAGMENTS: &[(&str, &str)] = shaders!("shared/": "attention_params" "bits_4" "bits_5" "bits_6"
    "bits_8" "dot_pairs_4" "dot_pairs_6" "dot_pairs_8" "flat" "float_bf16" "float_bindings"
    "float_f16" "float_f32" "matmul_bindings" "matmul_params" "pack_bytes" "pack_pairs" "pairs"
    "scale_k" "scale_min" "scale_q6_k" "scale_single" "store_quad" "weight_q4_0" "weight_q4_1"
    "weight_q4_k" "weight_q5_0" "weight_q5_1" "weight_q5_k" "weight_q6_k" "weight_q8_0" "words");

/// A compute pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kernel {
    Add,
    Append,
    AttentionLanes,
    Gate,
    Gather,
    MatmulFloat(DType),
    MatmulLanes(DType),
    MatvecFloat(DType),
    MatvecLanes(DType),
    QuantizeBytes,
    QuantizePairs,
    RmsNorm,
    RmsNormLanes,
    Rope,
}

/// What a pipeline is made of.
pub(super) struct Spec {
    /// File in `shaders/`, without `.wgsl`.
    pub file: &'static str,
    /// Import placeholders and the fragments they stand for.
    pub bound: Vec<(&'static str, &'static str)>,
    /// For each binding, whether the kernel writes it.
    pub writes: &'static [bool],
    /// Bytes of its parameters.
    pub params: usize,
}

const R: bool = false;
const W: bool = true;

impl Kernel {
    pub(super) fn spec(self) -> Spec {
        let spec = |file, writes, params| Spec { file, bound: Vec::new(), writes, params };
        let matmul = |file, bound, writes| Spec { file, bound, writes, params: MATMUL };
        const MATMUL: usize = size_of::<params::Matmul>();
        match self {
            Kernel::Add => spec("add", &[W, R], size_of::<params::Count>()),
            Kernel::Append => spec("append", &[R, R, R, W], size_of::<params::Pairwise>()),
            Kernel::AttentionLanes => {
                spec("attention_lanes", &[R, R, R, R, R, W], size_of::<params::Attention>())
            }
            Kernel::Gate => spec("gate", &[W, R, W], size_of::<params::Pairwise>()),
            Kernel::Gather => spec("gather", &[R, R, W], size_of::<params::Pairwise>()),
            Kernel::MatmulFloat(t) => matmul("matmul_float", float(t), &[R, R, R, W]),
            Kernel::MatvecFloat(t) => matmul("matvec_float", float(t), &[R, R, R, W]),
            Kernel::MatmulLanes(t) => matmul("matmul_lanes", lanes(t), &[R, R, R, R, W]),
            Kernel::MatvecLanes(t) => matmul("matvec_lanes", lanes(t), &[R, R, R, R, W]),
            Kernel::QuantizeBytes | Kernel::QuantizePairs => Spec {
                bound: vec![(
                    "pack",
                    if self == Kernel::QuantizeBytes { "pack_bytes" } else { "pack_pairs" },
                )],
                ..spec("quantize_rows", &[R, W, W], size_of::<params::Count>())
            },
            Kernel::RmsNorm => spec("rms_norm", &[W, R, W], size_of::<params::Norm>()),
            Kernel::RmsNormLanes => spec("rms_norm_lanes", &[W, R, W], size_of::<params::Norm>()),
            Kernel::Rope => spec("rope", &[W, R], size_of::<params::Rope>()),
        }
    }

    /// Every pipeline there can be.
    fn all() -> Vec<Kernel> {
        let mut all = vec![
            Kernel::Add,
            Kernel::Append,
            Kernel::AttentionLanes,
            Kernel::Gate,
            Kernel::Gather,
            Kernel::QuantizeBytes,
            Kernel::QuantizePairs,
            Kernel::RmsNorm,
            Kernel::RmsNormLanes,
            Kernel::Rope,
        ];
        for t in DType::ALL {
            if t.is_float() {
                all.extend([Kernel::MatmulFloat(t), Kernel::MatvecFloat(t)]);
            } else {
                all.extend([Kernel::MatmulLanes(t), Kernel::MatvecLanes(t)]);
            }
        }
        all
    }

    /// The WGSL text.
    pub(super) fn source(self) -> String {
        let spec = self.spec();
        let mut text = String::new();
        let mut seen = Vec::new();
        expand(find(ENTRIES, spec.file), &spec.bound, &mut seen, &mut text);
        text
    }
}

fn weight(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float_f32",
        DType::F16 => "float_f16",
        DType::BF16 => "float_bf16",
        DType::Q4_0 => "weight_q4_0",
        DType::Q4_1 => "weight_q4_1",
        DType::Q5_0 => "weight_q5_0",
        DType::Q5_1 => "weight_q5_1",
        DType::Q8_0 => "weight_q8_0",
        DType::Q4K => "weight_q4_k",
        DType::Q5K => "weight_q5_k",
        DType::Q6K => "weight_q6_k",
    }
}

fn float(dtype: DType) -> Vec<(&'static str, &'static str)> {
    vec![("weight", weight(dtype))]
}

fn lanes(dtype: DType) -> Vec<(&'static str, &'static str)> {
    let dot = match dtype {
        DType::Q8_0 => "dot_pairs_8",
        DType::Q6K => "dot_pairs_6",
        _ => "dot_pairs_4",
    };
    vec![("weight", weight(dtype)), ("dot", dot)]
}

fn find(table: &'static [(&str, &str)], name: &str) -> &'static str {
    let found = table.iter().find(|(n, _)| *n == name);
    found.unwrap_or_else(|| panic!("shaders/ has no '{name}'")).1
}

/// Replaces each `//!import NAME` line by the fragment NAME stands for, once.
fn expand(text: &str, bound: &[(&str, &'static str)], seen: &mut Vec<String>, out: &mut String) {
    for line in text.lines() {
        let Some(name) = line.strip_prefix("//!import ").map(str::trim) else {
            out.push_str(line);
            out.push('\n');
            continue;
        };
        let name = bound.iter().find(|(p, _)| *p == name).map_or(name, |(_, fragment)| fragment);
        if !seen.iter().any(|s| s == name) {
            seen.push(name.to_string());
            expand(find(FRAGMENTS, name), bound, seen, out);
        }
    }
}
