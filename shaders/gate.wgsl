// out = activation(gate) * up.
//!import flat
struct Params { count: u32, gelu: u32 }
var<immediate> p: Params;
// Written through `out` when both are one buffer, hence not read-only.
@group(0) @binding(0) var<storage, read_write> gate: array<f32>;
@group(0) @binding(1) var<storage, read> up: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

fn silu(x: f32) -> f32 {
    return x / (1.0 + exp(-x));
}

fn gelu(x: f32) -> f32 {
    // tanh(10) is 1 in f32; the clamp keeps exp finite.
    let inner = 0.7978845608 * fma(0.044715 * x * x, x, x);
    let y = clamp(inner, -10.0, 10.0);
    return x * (1.0 - 1.0 / (exp(2.0 * y) + 1.0));
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat(group, groups, local, 64u);
    if i >= p.count { return; }
    let x = gate[i];
    out[i] = select(silu(x), gelu(x), p.gelu == 1u) * up[i];
}
