// Q5_1: planes as src/quant/pack.rs describes them, four lanes to a vector.
//!import words
//!import bits_5
//!import scale_min
const CENTRE = 0u;
