// Stores keys and values in their cache slots as f16, two elements to an invocation.
//!import flat
struct Params { count: u32, width: u32 }
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> k: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read> v: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> slots: array<u32>;
@group(0) @binding(3) var<storage, read_write> cache: array<u32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat(group, groups, local, 64u);
    if i >= p.count { return; }
    // `width` counts words: half the elements of a position.
    let slot = slots[i / p.width];
    let at = (slot / 16u * 32u + slot % 16u) * p.width + i % p.width;
    cache[at] = pack2x16float(k[i]);
    cache[at + 16u * p.width] = pack2x16float(v[i]);
}
