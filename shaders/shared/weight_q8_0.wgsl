// Q8_0: planes as src/quant/pack.rs describes them, four lanes to a vector.
//!import words
//!import bits_8
//!import scale_single
const CENTRE = 128u;
