@group(0) @binding(0) var<storage, read> weights: array<vec4<u32>>;
// [rows][cols / 32] quantized blocks of four vectors; see quantize_rows, pack_bytes and pack_halves.
@group(0) @binding(1) var<storage, read> x: array<vec4<u32>>;
// [rows][cols / 32] scale of the block and exact sum of its quants.
@group(0) @binding(2) var<storage, read> x_scales: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
