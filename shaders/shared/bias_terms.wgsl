// Keys lack their bias: each query has coefficients for the turns of a position.
const BIASED = true;
@group(0) @binding(6) var<storage, read> terms: array<vec2<f32>>;
@group(0) @binding(7) var<storage, read> turns: array<vec2<f32>>;
fn term(at: u32) -> vec2<f32> { return terms[at]; }
fn turn(position: u32, i: u32) -> vec2<f32> { return turns[position * (p.head_dim / 2u) + i]; }
