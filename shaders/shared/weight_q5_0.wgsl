// Q5_0: planes as src/quant/pack.rs describes them, four lanes to a vector.
//!import words
//!import bits_5
//!import scale_single
const CENTRE = 16u;
