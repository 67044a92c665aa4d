// Rounds x to 15 bits per block of 32 columns: scale = largest / STEPS, nearest, ties to even.
//!import flat
struct Params { blocks: u32 }
const STEPS = 16256.0; // 127 * 128
var<immediate> p: Params;
// [blocks][32] f32.
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> out: array<Element>;
@group(0) @binding(2) var<storage, read_write> scales: array<vec2<f32>>;
//!import pack

fn largest(a: f32, v: vec4<f32>) -> f32 {
    let w = abs(v);
    return max(a, max(max(w.x, w.y), max(w.z, w.w)));
}

fn total(v: vec4<i32>) -> i32 {
    return v.x + v.y + v.z + v.w;
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let b = flat(group, groups, local, 64u);
    if b >= p.blocks { return; }
    var top = 0.0;
    for (var g = 0u; g < 8u; g++) { top = largest(top, x[b * 8u + g]); }
    let scale = top / STEPS;
    // Smaller values would overflow the quotient; they round to zero.
    let inverse = select(0.0, STEPS / top, top > 1e-30);
    var sum = 0;
    for (var j = 0u; j < 4u; j++) {
        let first = vec4<i32>(round(x[b * 8u + j] * inverse));
        let second = vec4<i32>(round(x[b * 8u + j + 4u] * inverse));
        sum += total(first) + total(second);
        store_step(b, j, first, second);
    }
    scales[b] = vec2(scale, f32(sum));
}
