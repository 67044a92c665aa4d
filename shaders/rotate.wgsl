// Multiplies blocks of elements by Hadamard's matrix in place, one workgroup per block: sums and
// differences at distances of one, two, four and so on.
//!import flat
struct Params { count: u32, len: u32, scale: f32 }
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read_write> x: array<f32>;

// Longest block.
var<workgroup> block: array<f32, 256>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let index = flat(group, groups, 0u, 1u);
    if index >= p.count { return; }
    let start = index * p.len;
    for (var i = local; i < p.len; i += 64u) { block[i] = x[start + i]; }
    for (var distance = 1u; distance < p.len; distance *= 2u) {
        workgroupBarrier();
        for (var pair = local; pair < p.len / 2u; pair += 64u) {
            let at = pair / distance * 2u * distance + pair % distance;
            let a = block[at];
            let b = block[at + distance];
            block[at] = a + b;
            block[at + distance] = a - b;
        }
    }
    workgroupBarrier();
    for (var i = local; i < p.len; i += 64u) { x[start + i] = block[i] * p.scale; }
}
