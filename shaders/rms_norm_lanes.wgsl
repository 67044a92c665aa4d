// RMS norm, one invocation per row: no barriers, for software adapters.
//!import flat
struct Params { rows: u32, cols: u32, eps: f32 }
var<immediate> p: Params;
// Written through `out` when both are one buffer, hence not read-only.
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let row = flat(group, groups, local, 8u);
    if row >= p.rows { return; }
    let at = row * p.cols;
    var sum = 0.0;
    for (var i = 0u; i < p.cols; i++) {
        let v = x[at + i];
        sum = fma(v, v, sum);
    }
    let scale = 1.0 / sqrt(sum / f32(p.cols) + p.eps);
    for (var i = 0u; i < p.cols; i++) { out[at + i] = x[at + i] * scale * weight[i]; }
}
