// Causal attention for software adapters: a subgroup of eight owns one row and up to four heads
// that share keys, so that each loaded key or value serves four heads. Streaming softmax over tiles
// of 32 logical positions (two pages), four positions to an invocation. The running output lives in
// `out`, so no private array grows with the head.
//!import flat
//!import attention_params
//!import format
//!import attention_four
//!import bias

fn four_terms(heads: vec4<u32>, i: u32) -> Sums {
    let a = term(heads.x + i);
    let b = term(heads.y + i);
    let c = term(heads.z + i);
    let d = term(heads.w + i);
    return Sums(vec4(a.x, b.x, c.x, d.x), vec4(a.y, b.y, c.y, d.y));
}

fn add_pair(s: Scores, even: vec4<f32>, odd: vec4<f32>, k: vec4<u32>, i: u32) -> Scores {
    return add(s, even, odd, key_pair(k.x, i), key_pair(k.y, i), key_pair(k.z, i), key_pair(k.w, i));
}

fn add_value(y: Sums, head: u32, i: u32, w: vec4<f32>) -> Sums {
    let v = value_pair(head, i);
    return Sums(fma(w, vec4(v.x), y.even), fma(w, vec4(v.y), y.odd));
}

fn add_eight(start: Sums, k: u32, i: u32, w: vec4<f32>) -> Sums {
    var y = start;
    y = add_value(y, subgroupBroadcast(k, 0u), i, subgroupBroadcast(w, 0u));
    y = add_value(y, subgroupBroadcast(k, 1u), i, subgroupBroadcast(w, 1u));
    y = add_value(y, subgroupBroadcast(k, 2u), i, subgroupBroadcast(w, 2u));
    y = add_value(y, subgroupBroadcast(k, 3u), i, subgroupBroadcast(w, 3u));
    y = add_value(y, subgroupBroadcast(k, 4u), i, subgroupBroadcast(w, 4u));
    y = add_value(y, subgroupBroadcast(k, 5u), i, subgroupBroadcast(w, 5u));
    y = add_value(y, subgroupBroadcast(k, 6u), i, subgroupBroadcast(w, 6u));
    return add_value(y, subgroupBroadcast(k, 7u), i, subgroupBroadcast(w, 7u));
}

fn scores(heads: vec4<u32>, k: vec4<u32>, lane: u32) -> Scores {
    let half = p.head_dim / 2u;
    var s = Scores();
    for (var i = 0u; i < half; i += 8u) {
        let x = four(heads, i + lane);
        let n = vec4(i, i + 1u, i + 2u, i + 3u);
        let m = min(n, vec4(half - 1u));
        let o = min(n + 4u, vec4(half - 1u));
        s = add_pair(s, subgroupBroadcast(x.even, 0u), subgroupBroadcast(x.odd, 0u), k, m.x);
        s = add_pair(s, subgroupBroadcast(x.even, 1u), subgroupBroadcast(x.odd, 1u), k, m.y);
        s = add_pair(s, subgroupBroadcast(x.even, 2u), subgroupBroadcast(x.odd, 2u), k, m.z);
        s = add_pair(s, subgroupBroadcast(x.even, 3u), subgroupBroadcast(x.odd, 3u), k, m.w);
        s = add_pair(s, subgroupBroadcast(x.even, 4u), subgroupBroadcast(x.odd, 4u), k, o.x);
        s = add_pair(s, subgroupBroadcast(x.even, 5u), subgroupBroadcast(x.odd, 5u), k, o.y);
        s = add_pair(s, subgroupBroadcast(x.even, 6u), subgroupBroadcast(x.odd, 6u), k, o.z);
        s = add_pair(s, subgroupBroadcast(x.even, 7u), subgroupBroadcast(x.odd, 7u), k, o.w);
    }
    return s;
}

// What keys lack, by the turns of their positions.
fn lacking(start: Scores, heads: vec4<u32>, positions: vec4<u32>) -> Scores {
    var s = start;
    for (var i = 0u; i < p.head_dim / 2u; i++) {
        let c = four_terms(heads, i);
        s = add(s, c.even, c.odd, turn(positions.x, i), turn(positions.y, i),
                turn(positions.z, i), turn(positions.w, i));
    }
    return s;
}

fn load(heads: vec4<u32>, i: u32, factor: vec4<f32>) -> Sums {
    let a = out[heads.x + i];
    let b = out[heads.y + i];
    let c = out[heads.z + i];
    let d = out[heads.w + i];
    return Sums(vec4(a.x, b.x, c.x, d.x) * factor, vec4(a.y, b.y, c.y, d.y) * factor);
}

@compute @workgroup_size(8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let index = flat(group, groups, 0u, 1u);
    if index >= p.rows * row_packs() { return; }
    let h = heads_of(index);
    let half = p.head_dim / 2u;
    let m = map[h.row];
    let seen = first_seen(m.w);
    var top = vec4(LOWEST);
    var total = vec4(0.0);
    for (var t = seen / 32u * 32u; t < m.w; t += 32u) {
        let at = t + lane;
        let positions = positions_of(m, at);
        let slot = slots_of(m, positions);
        var s = scores(h.at, keys_at(slot, h.kv), lane);
        if BIASED { s = lacking(s, h.at, positions); }
        let fresh = top.x == LOWEST;
        let soft = soften(s, at, seen, m.w, top, total);
        top = soft.top;
        total = soft.total;
        let v = values_at(slot, h.kv);
        for (var i = 0u; i < half; i += 8u) {
            // Every invocation takes part in the broadcasts, also past the end of a head.
            let mine = min(i + lane, half - 1u);
            var y = Sums();
            if !fresh { y = load(h.at, mine, soft.keep); }
            y = add_eight(y, v.x, mine, soft.w.a);
            y = add_eight(y, v.y, mine, soft.w.b);
            y = add_eight(y, v.z, mine, soft.w.c);
            y = add_eight(y, v.w, mine, soft.w.d);
            if i + lane < half { store(h.at, h.count, mine, y); }
        }
    }
    let inverse = 1.0 / total;
    for (var i = lane; i < half; i += 8u) { store(h.at, h.count, i, load(h.at, i, inverse)); }
}
