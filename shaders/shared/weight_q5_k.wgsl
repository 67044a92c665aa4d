// Q5_K: planes as src/quant/pack.rs describes them, four lanes to a vector.
//!import words
//!import bits_5
//!import scale_k
const CENTRE = 0u;
