// Q4_1: planes as src/quant/pack.rs describes them, four lanes to a vector.
//!import words
//!import bits_4
//!import scale_min
const CENTRE = 0u;
