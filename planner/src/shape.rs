//! Sizes of a model, as stored.

/// Bytes and operations of one layer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerShape {
    /// Bytes of each tensor, in the order in which a pass needs them.
    pub tensor_bytes: Vec<u64>,
    /// Bytes of keys and values per position.
    pub kv_bytes_per_position: u64,
    /// Weight elements that every position is multiplied with.
    pub linear_elements: u64,
}

/// Sizes of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelShape {
    /// The layers, in order.
    pub layers: Vec<LayerShape>,
    /// Bytes of the output head.
    pub head_bytes: u64,
    /// Weight elements of the output head.
    pub head_elements: u64,
    /// Bytes of one position's residual stream.
    pub activation_bytes_per_position: u64,
}

impl ModelShape {
    /// Bytes of all weights that passes need.
    pub fn weight_bytes(&self) -> u64 {
        let layers = self.layers.iter().flat_map(|layer| &layer.tensor_bytes);
        layers.sum::<u64>() + self.head_bytes
    }

    /// Bytes of keys and values per position, all layers.
    pub fn kv_bytes_per_position(&self) -> u64 {
        self.layers.iter().map(|layer| layer.kv_bytes_per_position).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_add_up() {
        let layer = LayerShape {
            tensor_bytes: vec![10, 20],
            kv_bytes_per_position: 4,
            linear_elements: 60,
        };
        let shape = ModelShape { layers: vec![layer; 3], head_bytes: 7, ..ModelShape::default() };
        assert_eq!(shape.weight_bytes(), 97);
        assert_eq!(shape.kv_bytes_per_position(), 12);
    }
}
