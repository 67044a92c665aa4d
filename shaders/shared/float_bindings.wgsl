@group(0) @binding(0) var<storage, read> weights: array<vec4<u32>>;
// [rows][cols].
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

// Two neighbouring columns of four outputs; a missing odd column is zero.
struct Columns { even: vec4<f32>, odd: vec4<f32> }
