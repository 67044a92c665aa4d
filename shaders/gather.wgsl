// out[first + r] = x[index[r]]; `first` counts elements.
//!import flat
struct Params { count: u32, cols: u32, first: u32 }
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> index: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat(group, groups, local, 64u);
    if i < p.count { out[p.first + i] = x[index[i / p.cols] * p.cols + i % p.cols]; }
}
