// Rotates pairs of elements of each head in place, one invocation per pair.
//!import flat
struct Params { count: u32, heads: u32, head_dim: u32, pairs: u32, halves: u32 }
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read> angles: array<vec2<f32>>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat(group, groups, local, 64u);
    if i >= p.count { return; }
    let pair = i % p.pairs;
    let head = i / p.pairs;
    let turn = angles[head / p.heads * p.pairs + pair];
    let at = head * p.head_dim + select(pair * 2u, pair, p.halves == 1u);
    let to = at + select(1u, p.pairs, p.halves == 1u);
    let a = x[at];
    let b = x[to];
    x[at] = fma(a, turn.x, -(b * turn.y));
    x[to] = fma(a, turn.y, b * turn.x);
}
