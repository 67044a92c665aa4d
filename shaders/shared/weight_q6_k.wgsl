// Q6_K: planes as src/quant/pack.rs describes them, four lanes to a vector.
//!import words
//!import bits_6
//!import scale_q6_k
const CENTRE = 32u;
