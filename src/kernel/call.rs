//! The closed set of kernel calls. Activations are f32, row-major `[rows][width]`.

use super::CacheLayout;
use crate::quant::DType;
use std::sync::Arc;

/// Handle of a device buffer, given out by the device that owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Buffer(pub u32);

/// Handle of a weight matrix `[rows = output features][cols = input features]` on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Which matrix of the device.
    pub id: u32,
    /// Storage type.
    pub dtype: DType,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
}

/// One of the matrices that share the input of a [`Call::Linear`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Projection {
    /// The weight matrix.
    pub weight: Matrix,
    /// f32 per output feature of the whole matrix, added to each row.
    pub bias: Option<Buffer>,
    /// Receives `[rows][stride]`, of which this projection writes `first..first + weight.rows`.
    pub out: Buffer,
    /// First output feature: more than 0 where `weight` is a slab of a larger matrix.
    pub first: usize,
    /// Output features of the whole matrix.
    pub stride: usize,
}

impl Projection {
    /// A whole matrix.
    pub fn whole(weight: Matrix, bias: Option<Buffer>, out: Buffer) -> Projection {
        Projection { weight, bias, out, first: 0, stride: weight.rows }
    }
}

/// Which elements of a head rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// `(2i, 2i+1)`: GGUF files of the `llama` architecture.
    Adjacent,
    /// `(i, i + rotary/2)`: GPT-NeoX, Hugging Face folders, every other GGUF here.
    Halves,
}

/// Gate of a gated feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// Gelu by its tanh approximation.
    GeluTanh,
}

/// What attention adds to `q . k` where keys are cached without their bias.
///
/// With `b` a key head's bias, a key at position `p` lacks `R_p b`, and `q . R_p b` is
/// `sum_i A_i cos(p t_i) + B_i sin(p t_i)` with coefficients that depend on the query alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyBias {
    /// `[rows][heads][head_dim]`: the coefficients, see [`Call::BiasTerms`].
    pub terms: Buffer,
    /// `[position][head_dim]` f32: cosines of all pairs, then their sines.
    pub turns: Buffer,
}

/// One kernel call. Calls of a list run in order; a call sees what earlier ones wrote.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// `out[r] = x[r] / sqrt(mean(x[r]^2) + eps) * weight`; `out` may be `x`.
    RmsNorm {
        /// `[rows][cols]`.
        x: Buffer,
        /// `[cols]` f32.
        weight: Buffer,
        /// `[rows][cols]`.
        out: Buffer,
        /// Number of rows.
        rows: usize,
        /// Elements of a row.
        cols: usize,
        /// Added to the mean square.
        eps: f32,
    },
    /// `out = x * weight^T + bias` for each projection. Quantized weights see `x` rounded per
    /// 32 columns of a row, to 8 bits on cpu and 15 on gpu (the reference device does not round); float
    /// weights see it exact.
    Linear {
        /// `[rows][cols]`.
        x: Buffer,
        /// Number of rows.
        rows: usize,
        /// Input features, shared by all projections.
        cols: usize,
        /// The matrices.
        projections: Arc<[Projection]>,
    },
    /// Rotates the first `2 * pairs` elements of each head of `x`, in place.
    Rope {
        /// `[rows][heads][head_dim]`.
        x: Buffer,
        /// `[rows][pairs][cos, sin]` f32, computed by the host.
        angles: Buffer,
        /// Number of rows.
        rows: usize,
        /// Heads of a row.
        heads: usize,
        /// Elements of a head.
        head_dim: usize,
        /// Rotated pairs of a head.
        pairs: usize,
        /// Which elements form a pair.
        style: RopeStyle,
    },
    /// Rotates each head of `x` by a Hadamard matrix, in place: each block of
    /// [`super::rotation_block`] elements becomes its sums and differences over the root of its length.
    /// Twice is once undone.
    Rotate {
        /// `[rows][heads][head_dim]`.
        x: Buffer,
        /// Number of rows.
        rows: usize,
        /// Heads of a row.
        heads: usize,
        /// Elements of a head.
        head_dim: usize,
    },
    /// The coefficients of [`KeyBias`]: with `(x, y)` a pair of a rotated query and `(b, c)` that of its
    /// key head's bias, `A = x b + y c` for all pairs, then `B = y b - x c`.
    BiasTerms {
        /// `[rows][heads][head_dim]`, rotated by position.
        q: Buffer,
        /// `[kv_heads][head_dim]` f32, not rotated.
        bias: Buffer,
        /// `[rows][heads][head_dim]`.
        out: Buffer,
        /// Number of rows.
        rows: usize,
        /// Query heads.
        heads: usize,
        /// Key heads.
        kv_heads: usize,
        /// Elements of a head, all of which rotate.
        head_dim: usize,
        /// Which elements form a pair.
        style: RopeStyle,
    },
    /// Stores each row's key and value in its cache slot, in the format of the cache.
    Append {
        /// `[rows][kv_heads * head_dim]`.
        k: Buffer,
        /// `[rows][kv_heads * head_dim]`.
        v: Buffer,
        /// One layer's pages.
        cache: Buffer,
        /// `[rows]` u32 cache slots.
        slots: Buffer,
        /// Number of rows.
        rows: usize,
        /// Shape of the pages.
        layout: CacheLayout,
    },
    /// Moves keys and values of cache slots, as they are, one after the other: a slot may be moved from
    /// before another is moved to it. What was accepted of a draft tree comes to lie in order this way.
    Move {
        /// One layer's pages.
        cache: Buffer,
        /// `[count][from, to]` u32 cache slots.
        moves: Buffer,
        /// Number of moves.
        count: usize,
        /// Shape of the pages.
        layout: CacheLayout,
    },
    /// Causal grouped-query attention of each row over its own map; the streaming softmax runs over
    /// tiles of a fixed number of logical positions counted from 0. Keys and values are read as the
    /// format of the cache keeps them.
    Attention {
        /// `[rows][heads][head_dim]`.
        q: Buffer,
        /// One layer's pages.
        cache: Buffer,
        /// `[rows]` [`super::AttentionRow`].
        map: Buffer,
        /// u32 page table that the map points into.
        pages: Buffer,
        /// u32 cache slots that the map points into.
        path: Buffer,
        /// `[rows][heads][head_dim]`.
        out: Buffer,
        /// Number of rows.
        rows: usize,
        /// Most positions that one of them sees: how much work this is, nothing else.
        longest: usize,
        /// Query heads.
        heads: usize,
        /// Shape of the pages.
        layout: CacheLayout,
        /// Where keys are cached without their bias, what they lack.
        key_bias: Option<KeyBias>,
        /// Multiplies `q . k`.
        scale: f32,
        /// Last positions seen (sliding window), or 0 for all.
        window: usize,
    },
    /// `out[i] = activation(gate[i]) * up[i]`; `out` may be `gate`.
    Gate {
        /// `[count]`.
        gate: Buffer,
        /// `[count]`.
        up: Buffer,
        /// `[count]`.
        out: Buffer,
        /// Elements.
        count: usize,
        /// The non-linearity.
        activation: Activation,
    },
    /// `x[i] += y[i]`.
    Add {
        /// `[count]`.
        x: Buffer,
        /// `[count]`.
        y: Buffer,
        /// Elements.
        count: usize,
    },
    /// `out[first + r] = x[index[r]]`.
    Gather {
        /// `[any][cols]`.
        x: Buffer,
        /// `[rows]` u32.
        index: Buffer,
        /// `[first + rows][cols]`.
        out: Buffer,
        /// First row of `out` that is written.
        first: usize,
        /// Rows to copy.
        rows: usize,
        /// Elements of a row.
        cols: usize,
    },
}
