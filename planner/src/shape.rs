//! Sizes of a model, as stored.

/// One weight matrix, cut into the pieces that have a home of their own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MatrixShape {
    /// Name of the storage type, as in model files ("Q4_K").
    pub dtype: String,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Bytes of each segment as it is read and allocated, padding included, in order.
    pub segments: Vec<u64>,
}

impl MatrixShape {
    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().sum()
    }

    /// Weights.
    pub fn elements(&self) -> f64 {
        self.rows as f64 * self.cols as f64
    }
}

/// The two halves of a layer between which streamed weights change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Queries, keys, values, attention and its output matrix.
    Attention,
    /// Gate, up and down.
    FeedForward,
}

impl Part {
    /// Both, in the order in which a pass runs them.
    pub const ALL: [Part; 2] = [Part::Attention, Part::FeedForward];

    /// Kernel calls of one: norm, two linear, two rotations, append, attention, sum; norm, two linear,
    /// gate, sum.
    pub const fn calls(self) -> f64 {
        match self {
            Part::Attention => 8.0,
            Part::FeedForward => 5.0,
        }
    }
}

/// Matrices and widths of one layer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerShape {
    /// Matrices of [`Part::Attention`], in the order in which a pass needs them.
    pub attention: Vec<MatrixShape>,
    /// Matrices of [`Part::FeedForward`], likewise.
    pub feed_forward: Vec<MatrixShape>,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements of one head.
    pub head_dim: usize,
    /// Positions that a row sees at most; `None` for all.
    pub window: Option<usize>,
    /// Width of the feed-forward.
    pub feed_forward_len: usize,
}

impl LayerShape {
    /// Matrices of one half.
    pub fn part(&self, part: Part) -> &[MatrixShape] {
        match part {
            Part::Attention => &self.attention,
            Part::FeedForward => &self.feed_forward,
        }
    }

    /// Elements of a row of queries.
    pub fn query_len(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Elements of a row of keys, or of values.
    pub fn kv_len(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// f32 read and written per row by what is neither a linear layer nor attention: norm, rotation,
    /// cache append and sum in one half; norm, gate and sum in the other.
    pub fn touched_floats(&self, part: Part, hidden: usize) -> usize {
        let norm_and_sum = 2 * hidden + 3 * hidden;
        norm_and_sum
            + match part {
                Part::Attention => 2 * (self.query_len() + self.kv_len()) + 2 * self.kv_len(),
                Part::FeedForward => 3 * self.feed_forward_len,
            }
    }
}

/// Sizes of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelShape {
    /// The layers, in order.
    pub layers: Vec<LayerShape>,
    /// The output head (the embedding matrix where they are tied).
    pub head: MatrixShape,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Size of the vocabulary.
    pub vocab: usize,
    /// Bytes of norms, biases and tables, which are always on the device.
    pub vector_bytes: u64,
    /// Positions of a page of the KV cache.
    pub page_positions: usize,
}

impl ModelShape {
    /// All matrices in the order of a pass: layer by layer, attention before feed-forward, the head
    /// last. [`Policy::homes`](crate::Policy::homes) is in this order.
    pub fn matrices(&self) -> impl Iterator<Item = &MatrixShape> {
        let layers = self.layers.iter().flat_map(|l| l.attention.iter().chain(&l.feed_forward));
        layers.chain([&self.head])
    }

    /// The same with the number of the part that each belongs to: two to a layer, the head last.
    pub(crate) fn matrices_by_part(&self) -> impl Iterator<Item = (usize, &MatrixShape)> {
        let halves = self.layers.iter().flat_map(|l| Part::ALL.map(|part| l.part(part)));
        let halves = halves.enumerate();
        let layers = halves.flat_map(|(at, half)| half.iter().map(move |matrix| (at, matrix)));
        layers.chain([(2 * self.layers.len(), &self.head)])
    }

    /// Bytes of the halves of all layers, in the order of a pass.
    pub(crate) fn half_bytes(&self) -> impl Iterator<Item = u64> {
        let halves = self.layers.iter().flat_map(|l| Part::ALL.map(|part| l.part(part)));
        halves.map(|half| half.iter().map(MatrixShape::bytes).sum())
    }

    /// Bytes of all matrices but the head.
    pub fn layer_bytes(&self) -> u64 {
        self.weight_bytes() - self.head.bytes()
    }

    /// Bytes of all matrices.
    pub fn weight_bytes(&self) -> u64 {
        self.matrices().map(MatrixShape::bytes).sum()
    }

    /// Bytes of the largest segment.
    pub fn largest_segment(&self) -> u64 {
        self.matrices().flat_map(|m| &m.segments).copied().max().unwrap_or(0)
    }

    /// Bytes of the segments of the layers.
    pub(crate) fn layer_segments(&self) -> impl Iterator<Item = u64> {
        let matrices = self.layers.iter().flat_map(|l| l.attention.iter().chain(&l.feed_forward));
        matrices.flat_map(|matrix| matrix.segments.iter().copied())
    }

    /// Pages that hold `positions`.
    pub fn pages(&self, positions: usize) -> usize {
        positions.div_ceil(self.page_positions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_come_in_the_order_of_a_pass() {
        let matrix = |rows| MatrixShape {
            rows,
            cols: 2,
            segments: vec![10; rows],
            ..MatrixShape::default()
        };
        let layer = |first: usize| LayerShape {
            attention: vec![matrix(first), matrix(first + 1)],
            feed_forward: vec![matrix(first + 2)],
            ..LayerShape::default()
        };
        let model = ModelShape {
            layers: vec![layer(1), layer(4)],
            head: matrix(7),
            page_positions: 16,
            ..ModelShape::default()
        };
        let rows: Vec<usize> = model.matrices().map(|m| m.rows).collect();
        assert_eq!(rows, [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!((model.weight_bytes(), model.layer_bytes()), (280, 210));
        assert_eq!((model.pages(16), model.pages(17)), (1, 2));
    }
}
