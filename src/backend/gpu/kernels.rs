//! The table of kernels: which files make up each shader, and what it binds.

use super::params;
use crate::kernel::KvFormat;
use crate::quant::DType;

macro_rules! shaders {
    ($folder:literal: $($name:literal)*) => {
        &[$(($name, include_str!(concat!("../../../shaders/", $folder, $name, ".wgsl")))),*]
    };
}

pub(super) const ENTRIES: &[(&str, &str)] = shaders!("":
    "add" "append" "append_codes" "attention" "attention_lanes" "attention_vectors"
    "bias_terms" "gate" "gather" "matmul_float_lanes" "matmul_float_tiles" "matmul_lanes"
    "matmul_matrices" "matmul_tiles" "matvec_float_lanes" "matvec_float_tiles" "matvec_lanes"
    "matvec_tiles" "move" "quantize_rows" "rms_norm" "rms_norm_lanes" "rope" "rotate"
    "rotate_lanes");

pub(super) const FRAGMENTS: &[(&str, &str)] = shaders!("shared/":
    "attention_four" "attention_heads" "attention_params" "bias_none" "bias_terms" "bits_4"
    "bits_5" "bits_6" "bits_8" "bytes" "flat" "float_bf16" "float_bindings" "float_f16"
    "float_f32" "fragment_loops" "fragment_units" "kv_codes" "kv_f16" "kv_k8v4" "kv_q4"
    "lane_sums" "matmul_bindings" "matmul_params" "multiply_loops" "multiply_units"
    "pack_bytes" "pack_halves" "rows_1" "rows_4" "scale_k" "scale_min" "scale_q6_k"
    "scale_single" "segment" "store_quad" "weight_q4_0" "weight_q4_1" "weight_q4_k"
    "weight_q5_0" "weight_q5_1" "weight_q5_k" "weight_q6_k" "weight_q8_0" "words");

/// Which kernels a device runs where there are two of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// No workgroup memory, several outputs per invocation: software adapters.
    Lanes,
    /// Tiles in workgroup memory: GPUs.
    Tiles,
}

/// What multiplies small matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Units {
    /// A GPU's matrix units (wgpu's cooperative matrices).
    Matrix,
    /// Loops in their place, to test what is around them.
    Loops,
}

/// Elements of a head that [`Kernel::AttentionVectors`] has registers for.
pub(super) const VECTORS_MAX: usize = 128;

/// A compute pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kernel {
    Add,
    Append,
    AppendCodes,
    /// Whether keys lack their bias.
    Attention(Family, KvFormat, bool),
    /// Keys and values of 16 bits, of `Lanes`: heads of whole vectors up to [`VECTORS_MAX`] elements.
    AttentionVectors,
    BiasTerms,
    /// Several rows of x, few enough for the weights to be what takes time; quantized, of `Tiles`.
    Few(DType),
    Gate,
    Gather,
    Matmul(Family, DType),
    /// [`Kernel::Matmul`] of `Tiles` with matrix units: quantized, the same bits.
    Matrices(Units, DType),
    Matvec(Family, DType),
    Move,
    Quantize(Family),
    RmsNorm(Family),
    Rope,
    Rotate(Family),
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
        use Family::{Lanes, Tiles};
        const ROTATE: usize = size_of::<params::Rotate>();
        const NORM: usize = size_of::<params::Norm>();
        const PAIRWISE: usize = size_of::<params::Pairwise>();
        const COUNT: usize = size_of::<params::Count>();
        let spec = |file, writes, params| Spec { file, bound: Vec::new(), writes, params };
        match self {
            Kernel::Add => spec("add", &[W, R], COUNT),
            Kernel::Append => spec("append", &[R, R, R, W], PAIRWISE),
            Kernel::AppendCodes => {
                spec("append_codes", &[R, R, R, W], size_of::<params::AppendCodes>())
            }
            Kernel::Attention(family, format, biased) => Spec {
                file: if family == Lanes { "attention_lanes" } else { "attention" },
                bound: vec![("format", cached(format)), ("bias", bias(biased))],
                writes: if biased { &[R, R, R, R, R, W, R, R] } else { &[R, R, R, R, R, W] },
                params: size_of::<params::Attention>(),
            },
            Kernel::AttentionVectors => {
                spec("attention_vectors", &[R, R, R, R, R, W], size_of::<params::Attention>())
            }
            Kernel::BiasTerms => spec("bias_terms", &[R, R, W], size_of::<params::Terms>()),
            Kernel::Few(dtype) => product(dtype, "matvec_tiles", "rows_4"),
            Kernel::Gate => spec("gate", &[W, R, W], PAIRWISE),
            Kernel::Gather => spec("gather", &[R, R, W], size_of::<params::Gather>()),
            Kernel::Matmul(family, dtype) => product(
                dtype,
                match (family, dtype.is_float()) {
                    (Lanes, true) => "matmul_float_lanes",
                    (Tiles, true) => "matmul_float_tiles",
                    (Lanes, false) => "matmul_lanes",
                    (Tiles, false) => "matmul_tiles",
                },
                "rows_1",
            ),
            Kernel::Matrices(units, dtype) => {
                let mut spec = product(dtype, "matmul_matrices", "rows_1");
                spec.bound.extend(match units {
                    Units::Matrix => {
                        [("fragment", "fragment_units"), ("multiply", "multiply_units")]
                    }
                    Units::Loops => {
                        [("fragment", "fragment_loops"), ("multiply", "multiply_loops")]
                    }
                });
                spec
            }
            Kernel::Matvec(family, dtype) => product(
                dtype,
                match (family, dtype.is_float()) {
                    (Lanes, true) => "matvec_float_lanes",
                    (Tiles, true) => "matvec_float_tiles",
                    (Lanes, false) => "matvec_lanes",
                    (Tiles, false) => "matvec_tiles",
                },
                "rows_1",
            ),
            Kernel::Move => spec("move", &[R, W], size_of::<params::Move>()),
            Kernel::Quantize(family) => Spec {
                bound: vec![("pack", if family == Lanes { "pack_halves" } else { "pack_bytes" })],
                ..spec("quantize_rows", &[R, W, W], COUNT)
            },
            Kernel::RmsNorm(Lanes) => spec("rms_norm_lanes", &[W, R, W], NORM),
            Kernel::RmsNorm(Tiles) => spec("rms_norm", &[W, R, W], NORM),
            Kernel::Rope => spec("rope", &[W, R], size_of::<params::Rope>()),
            Kernel::Rotate(Lanes) => spec("rotate_lanes", &[W], ROTATE),
            Kernel::Rotate(Tiles) => spec("rotate", &[W], ROTATE),
        }
    }

    /// Every pipeline there can be.
    #[cfg(test)]
    pub(super) fn all() -> Vec<Kernel> {
        let mut all = vec![Kernel::Add, Kernel::Append, Kernel::AppendCodes, Kernel::BiasTerms];
        all.extend([
            Kernel::AttentionVectors,
            Kernel::Gate,
            Kernel::Gather,
            Kernel::Move,
            Kernel::Rope,
        ]);
        for family in [Family::Lanes, Family::Tiles] {
            all.extend([Kernel::Quantize(family), Kernel::RmsNorm(family), Kernel::Rotate(family)]);
            for format in KvFormat::ALL {
                all.extend([false, true].map(|biased| Kernel::Attention(family, format, biased)));
            }
            for dtype in DType::ALL {
                all.extend([Kernel::Matmul(family, dtype), Kernel::Matvec(family, dtype)]);
                all.extend((!dtype.is_float()).then_some(Kernel::Few(dtype)));
                let units = [Units::Matrix, Units::Loops].into_iter();
                let units = units.filter(|_| !dtype.is_float() && family == Family::Tiles);
                all.extend(units.map(|units| Kernel::Matrices(units, dtype)));
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

fn cached(format: KvFormat) -> &'static str {
    match format {
        KvFormat::F16 => "kv_f16",
        KvFormat::K8V4 => "kv_k8v4",
        KvFormat::Q4 => "kv_q4",
    }
}

fn bias(biased: bool) -> &'static str {
    if biased { "bias_terms" } else { "bias_none" }
}

/// A linear layer's kernel.
fn product(dtype: DType, file: &'static str, rows: &'static str) -> Spec {
    Spec {
        file,
        bound: vec![("weight", weight(dtype)), ("rows", rows)],
        writes: if dtype.is_float() { &[R, R, R, W] } else { &[R, R, R, R, W] },
        params: size_of::<params::Matmul>(),
    }
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
