//! How keys and values are kept: the formats of the cache.

use std::fmt;

/// A format of the KV cache. Compressed ones keep codes with 16-bit scales: see [`crate::quant::encode`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KvFormat {
    /// 16-bit floats.
    #[default]
    F16,
    /// Keys of 8 bits, values of 4: 6.75 bits an element with their scales.
    K8V4,
    /// Keys and values of 4 bits, rotated first: 5 bits an element with their scales.
    Q4,
}

impl KvFormat {
    /// Every format, largest first.
    pub const ALL: [KvFormat; 3] = [KvFormat::F16, KvFormat::K8V4, KvFormat::Q4];

    /// Its name on the command line, in profiles, policies and manifests.
    pub const fn name(self) -> &'static str {
        match self {
            KvFormat::F16 => "f16",
            KvFormat::K8V4 => "k8v4",
            KvFormat::Q4 => "q4",
        }
    }

    /// The format of that name.
    pub fn from_name(name: &str) -> Option<KvFormat> {
        KvFormat::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Bits of an element of a key.
    pub const fn key_bits(self) -> usize {
        match self {
            KvFormat::F16 => 16,
            KvFormat::K8V4 => 8,
            KvFormat::Q4 => 4,
        }
    }

    /// Bits of an element of a value.
    pub const fn value_bits(self) -> usize {
        match self {
            KvFormat::F16 => 16,
            KvFormat::K8V4 | KvFormat::Q4 => 4,
        }
    }

    /// Whether elements are codes with scales.
    pub const fn is_compressed(self) -> bool {
        !matches!(self, KvFormat::F16)
    }

    /// Whether heads are rotated before they are stored: a Hadamard matrix spreads what is large in one
    /// element over all, which 4-bit keys need and 8-bit keys do not.
    pub const fn rotates(self) -> bool {
        matches!(self, KvFormat::Q4)
    }
}

impl fmt::Display for KvFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
