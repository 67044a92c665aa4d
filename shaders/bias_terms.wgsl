// Coefficients of a key bias for each query, one invocation per pair: see Call::BiasTerms.
//!import flat
struct Params { count: u32, heads: u32, group: u32, pairs: u32, halves: u32 }
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> bias: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

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
    let first = select(pair * 2u, pair, p.halves == 1u);
    let second = first + select(1u, p.pairs, p.halves == 1u);
    let at = head * 2u * p.pairs;
    let key = head % p.heads / p.group * 2u * p.pairs;
    let x = vec2(q[at + first], q[at + second]);
    let b = vec2(bias[key + first], bias[key + second]);
    out[at + pair] = fma(x.x, b.x, x.y * b.y);
    out[at + p.pairs + pair] = fma(x.y, b.x, -(x.x * b.y));
}
