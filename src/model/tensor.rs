//! Names of tensors: what a tensor is for, and what files call it.

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Token embedding `[vocab][hidden]`.
    Embedding,
    /// Norm before the output head.
    OutputNorm,
    /// Output head `[vocab][hidden]`; absent where it is the embedding.
    Output,
    /// Norm before attention.
    AttentionNorm,
    /// Query projection.
    Query,
    /// Key projection.
    Key,
    /// Value projection.
    Value,
    /// Attention output projection.
    AttentionOutput,
    /// Bias of the query projection.
    QueryBias,
    /// Bias of the key projection.
    KeyBias,
    /// Bias of the value projection.
    ValueBias,
    /// Norm of each query head.
    QueryNorm,
    /// Norm of each key head.
    KeyNorm,
    /// Norm of the attention output.
    PostAttentionNorm,
    /// Norm before the feed-forward network.
    FeedForwardNorm,
    /// Gate projection.
    Gate,
    /// Up projection.
    Up,
    /// Down projection.
    Down,
    /// Norm of the feed-forward output.
    PostFeedForwardNorm,
}

/// A tensor of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId {
    /// Layer index, or `None` for the embedding and the head.
    pub layer: Option<u32>,
    /// What it is for.
    pub role: Role,
}

impl TensorId {
    /// A tensor of layer `layer`.
    pub fn of_layer(layer: usize, role: Role) -> TensorId {
        TensorId { layer: Some(layer as u32), role }
    }

    /// A tensor outside the layers.
    pub fn global(role: Role) -> TensorId {
        TensorId { layer: None, role }
    }
}
