// RMS norm, one workgroup per row: strided partial sums, then a fixed tree.
//!import flat
struct Params { rows: u32, cols: u32, eps: f32 }
var<immediate> p: Params;
// Written through `out` when both are one buffer, hence not read-only.
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
var<workgroup> partial: array<f32, 128>;

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let row = flat(group, groups, 0u, 1u);
    if row >= p.rows { return; }
    let at = row * p.cols;
    var sum = 0.0;
    for (var i = local; i < p.cols; i += 128u) {
        let v = x[at + i];
        sum = fma(v, v, sum);
    }
    partial[local] = sum;
    for (var half = 64u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half { partial[local] += partial[local + half]; }
    }
    workgroupBarrier();
    let scale = 1.0 / sqrt(partial[0] / f32(p.cols) + p.eps);
    for (var i = local; i < p.cols; i += 128u) { out[at + i] = x[at + i] * scale * weight[i]; }
}
