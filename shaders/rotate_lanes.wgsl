// As rotate.wgsl, for software adapters, where barriers cost more than memory: one invocation per block.
//!import flat
struct Params { count: u32, len: u32, scale: f32 }
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let index = flat(group, groups, local, 8u);
    if index >= p.count { return; }
    let start = index * p.len;
    for (var distance = 1u; distance < p.len; distance *= 2u) {
        for (var pair = 0u; pair < p.len / 2u; pair++) {
            let at = start + pair / distance * 2u * distance + pair % distance;
            let a = x[at];
            let b = x[at + distance];
            x[at] = a + b;
            x[at + distance] = a - b;
        }
    }
    for (var i = start; i < start + p.len; i++) { x[i] *= p.scale; }
}
