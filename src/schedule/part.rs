//! What a model is made of as passes see it: parts, whose weights are needed at once.

use crate::model::{ModelSpec, Role, TensorId};
use crate::quant::{Packing, Segment, segments};
use forebay_planner::Tier;
use std::collections::HashMap;

/// Weights that are used together, in the order of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Projections of a layer's attention.
    Attention(usize),
    /// Projections of a layer's feed-forward network.
    FeedForward(usize),
    /// A run of the output head's rows.
    Head(usize),
}

impl Part {
    /// The matrices of a part, where attention runs on the device.
    fn tensors(self, spec: &ModelSpec) -> Vec<TensorId> {
        let of = |layer, roles: &[Role]| {
            roles.iter().map(|&role| TensorId::of_layer(layer, role)).collect()
        };
        match self {
            Part::Attention(layer) => {
                of(layer, &[Role::Query, Role::Key, Role::Value, Role::AttentionOutput])
            }
            Part::FeedForward(layer) => of(layer, &[Role::Gate, Role::Up, Role::Down]),
            Part::Head(_) => vec![head_tensor(spec)],
        }
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Part::Attention(layer) => write!(f, "attention {layer}"),
            Part::FeedForward(layer) => write!(f, "feed-forward {layer}"),
            Part::Head(index) => write!(f, "head {index}"),
        }
    }
}

/// The output head's matrix: the embedding where they are tied.
pub fn head_tensor(spec: &ModelSpec) -> TensorId {
    TensorId::global(if spec.tied_head { Role::Embedding } else { Role::Output })
}

/// The matrices that passes multiply with, in the order of a pass, how they are packed, and which
/// parts they fall into.
#[derive(Clone, Debug, Default)]
pub struct Matrices {
    order: Vec<TensorId>,
    packings: HashMap<TensorId, Packing>,
    host_attention: bool,
}

impl Matrices {
    /// All matrices of `spec`; `packing` tells those of a tensor.
    pub fn new<E>(
        spec: &ModelSpec,
        packing: impl Fn(TensorId) -> Result<Packing, E>,
    ) -> Result<Matrices, E> {
        let layers =
            (0..spec.layers.len()).flat_map(|l| [Part::Attention(l), Part::FeedForward(l)]);
        let mut matrices = Matrices::default();
        for id in layers.chain([Part::Head(0)]).flat_map(|part| part.tensors(spec)) {
            matrices.packings.insert(id, packing(id)?);
            matrices.order.push(id);
        }
        Ok(matrices)
    }

    /// The same with attention on the host or not. If so, its output projection joins the feed-forward
    /// part: the host then attends for all micro-batches while the device projects for later ones and
    /// feeds earlier ones forward, and each part's weights still serve all turns at once.
    pub fn attending_on_host(self, host_attention: bool) -> Matrices {
        Matrices { host_attention, ..self }
    }

    /// Whether attention runs on the host.
    pub fn host_attention(&self) -> bool {
        self.host_attention
    }

    /// The matrices of a part, in the order of a pass.
    pub fn tensors(&self, spec: &ModelSpec, part: Part) -> Vec<TensorId> {
        let mut tensors = part.tensors(spec);
        match part {
            Part::Attention(_) if self.host_attention => tensors.truncate(3),
            Part::FeedForward(layer) if self.host_attention => {
                tensors.insert(0, TensorId::of_layer(layer, Role::AttentionOutput));
            }
            _ => {}
        }
        tensors
    }

    /// Every matrix once, in the order of a pass.
    pub fn iter(&self) -> impl Iterator<Item = (TensorId, Packing)> + '_ {
        self.order.iter().map(|&id| (id, self.packings[&id]))
    }

    /// How a matrix is packed.
    pub fn packing(&self, id: TensorId) -> Packing {
        self.packings[&id]
    }

    /// The segments of a matrix.
    pub fn segments(&self, id: TensorId) -> Vec<Segment> {
        segments(&self.packings[&id]).collect()
    }
}

/// Where weights live: the home of each segment. What is not listed lives on the device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Homes(HashMap<TensorId, Vec<Tier>>);

impl Homes {
    /// Everything on the device.
    pub fn resident() -> Homes {
        Homes::default()
    }

    /// Homes from one tier for each segment, in the order of [`Matrices::iter`].
    pub fn from_list(matrices: &Matrices, tiers: impl IntoIterator<Item = Tier>) -> Homes {
        let mut tiers = tiers.into_iter();
        let of = |(id, packing): (TensorId, Packing)| {
            let count = segments(&packing).len();
            (id, tiers.by_ref().take(count).collect())
        };
        Homes(matrices.iter().map(of).collect())
    }

    /// The home of segment `index` of a matrix.
    pub fn of(&self, id: TensorId, index: usize) -> Tier {
        let tiers = self.0.get(&id).map_or(&[][..], Vec::as_slice);
        tiers.get(index).copied().unwrap_or(Tier::Device)
    }
}
