// Q4_K: planes as src/quant/pack.rs describes them, four lanes to a vector.
//!import words
//!import bits_4
//!import scale_k
const CENTRE = 0u;
