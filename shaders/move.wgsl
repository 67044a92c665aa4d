// Moves keys and values of cache slots, one move after the other. An invocation has one word of a
// position and makes all moves of it, so that no two invocations touch the same word.
//!import flat
struct Params { count: u32, page: u32, key: u32, value: u32 }
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> moves: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read_write> cache: array<u32>;

// Word `i` of a slot: its keys, then its values.
fn word(slot: u32, i: u32) -> u32 {
    let at = slot / 16u * p.page;
    let within = slot % 16u;
    if i < p.key { return at + within * p.key + i; }
    return at + 16u * p.key + within * p.value + i - p.key;
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat(group, groups, local, 64u);
    if i >= p.key + p.value { return; }
    for (var m = 0u; m < p.count; m += 1u) {
        cache[word(moves[m].y, i)] = cache[word(moves[m].x, i)];
    }
}
