// What a subgroup works on, and where it finds that: up to four heads of a row, a tile of positions.

// The row, its key/value head, how many heads there are, and the first pair of elements of each.
struct Heads { row: u32, kv: u32, count: u32, at: vec4<u32> }

// Subgroups of a row.
fn row_packs() -> u32 {
    return (p.group + 3u) / 4u * (p.heads / p.group);
}

fn heads_of(index: u32) -> Heads {
    let packs = (p.group + 3u) / 4u;
    let row = p.row_first + index / row_packs();
    let kv = index % row_packs() / packs;
    let first = index % packs * 4u;
    let count = min(p.group - first, 4u);
    let picked = min(vec4(0u, 1u, 2u, 3u), vec4(count - 1u)) + (kv * p.group + first);
    return Heads(row, kv, count, (vec4(row * p.heads) + picked) * (p.head_dim / 2u));
}

fn positions_of(m: vec4<u32>, at: u32) -> vec4<u32> {
    return min(vec4(at, at + 8u, at + 16u, at + 24u), vec4(m.w - 1u));
}

fn slots_of(m: vec4<u32>, positions: vec4<u32>) -> vec4<u32> {
    return vec4(slot_of(m, positions.x), slot_of(m, positions.y),
                slot_of(m, positions.z), slot_of(m, positions.w));
}

fn keys_at(slot: vec4<u32>, kv: u32) -> vec4<u32> {
    return vec4(key_at(slot.x, kv), key_at(slot.y, kv), key_at(slot.z, kv), key_at(slot.w, kv));
}

fn values_at(slot: vec4<u32>, kv: u32) -> vec4<u32> {
    return vec4(value_at(slot.x, kv), value_at(slot.y, kv), value_at(slot.z, kv), value_at(slot.w, kv));
}
