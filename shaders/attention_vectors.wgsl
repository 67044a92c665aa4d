// attention_lanes for keys and values of 16 bits and heads of up to 128 elements, eight to a load: on
// llvmpipe it costs little more than a load of one. The running output stays in registers: an invocation
// has eight elements of four heads, and as many of the second half of a long head.
//!import flat
//!import attention_params
//!import attention_four

@group(0) @binding(1) var<storage, read> cache: array<vec4<u32>>;

// Eight elements of four heads.
struct Eight {
    a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>,
    e: vec4<f32>, f: vec4<f32>, g: vec4<f32>, h: vec4<f32>,
}

fn add_value(y: Eight, at: u32, w: vec4<f32>) -> Eight {
    let v = cache[at];
    let i = unpack2x16float(v.x);
    let j = unpack2x16float(v.y);
    let k = unpack2x16float(v.z);
    let l = unpack2x16float(v.w);
    return Eight(fma(w, vec4(i.x), y.a), fma(w, vec4(i.y), y.b), fma(w, vec4(j.x), y.c),
                 fma(w, vec4(j.y), y.d), fma(w, vec4(k.x), y.e), fma(w, vec4(k.y), y.f),
                 fma(w, vec4(l.x), y.g), fma(w, vec4(l.y), y.h));
}

// The values of eight positions, a quarter of a tile: `at` has their vectors, a position to a lane.
fn add_values(start: Eight, at: u32, i: u32, w: vec4<f32>) -> Eight {
    var y = start;
    y = add_value(y, subgroupBroadcast(at, 0u) + i, subgroupBroadcast(w, 0u));
    y = add_value(y, subgroupBroadcast(at, 1u) + i, subgroupBroadcast(w, 1u));
    y = add_value(y, subgroupBroadcast(at, 2u) + i, subgroupBroadcast(w, 2u));
    y = add_value(y, subgroupBroadcast(at, 3u) + i, subgroupBroadcast(w, 3u));
    y = add_value(y, subgroupBroadcast(at, 4u) + i, subgroupBroadcast(w, 4u));
    y = add_value(y, subgroupBroadcast(at, 5u) + i, subgroupBroadcast(w, 5u));
    y = add_value(y, subgroupBroadcast(at, 6u) + i, subgroupBroadcast(w, 6u));
    y = add_value(y, subgroupBroadcast(at, 7u) + i, subgroupBroadcast(w, 7u));
    return y;
}

fn scaled(y: Eight, s: vec4<f32>) -> Eight {
    return Eight(y.a * s, y.b * s, y.c * s, y.d * s, y.e * s, y.f * s, y.g * s, y.h * s);
}

fn store_eight(heads: vec4<u32>, count: u32, i: u32, y: Eight) {
    store(heads, count, i, Sums(y.a, y.b));
    store(heads, count, i + 1u, Sums(y.c, y.d));
    store(heads, count, i + 2u, Sums(y.e, y.f));
    store(heads, count, i + 3u, Sums(y.g, y.h));
}

// A pair of elements of four queries against that of four keys.
fn add_pair(s: Scores, x: Sums, a: u32, b: u32, c: u32, d: u32) -> Scores {
    return add(s, x.even, x.odd, unpack2x16float(a), unpack2x16float(b), unpack2x16float(c),
               unpack2x16float(d));
}

// `k` has the vectors of four keys of this invocation.
fn scores(heads: vec4<u32>, k: vec4<u32>, lane: u32) -> Scores {
    let half = p.head_dim / 2u;
    var s = Scores();
    for (var i = 0u; i < half; i += 8u) {
        let x = four(heads, i + lane);
        let first = k + vec4(i / 4u);
        let a = cache[first.x];
        let b = cache[first.y];
        let c = cache[first.z];
        let d = cache[first.w];
        s = add_pair(s, Sums(subgroupBroadcast(x.even, 0u), subgroupBroadcast(x.odd, 0u)),
                     a.x, b.x, c.x, d.x);
        s = add_pair(s, Sums(subgroupBroadcast(x.even, 1u), subgroupBroadcast(x.odd, 1u)),
                     a.y, b.y, c.y, d.y);
        s = add_pair(s, Sums(subgroupBroadcast(x.even, 2u), subgroupBroadcast(x.odd, 2u)),
                     a.z, b.z, c.z, d.z);
        s = add_pair(s, Sums(subgroupBroadcast(x.even, 3u), subgroupBroadcast(x.odd, 3u)),
                     a.w, b.w, c.w, d.w);
        let second = k + vec4(min(i / 4u + 1u, half / 4u - 1u));
        let e = cache[second.x];
        let f = cache[second.y];
        let g = cache[second.z];
        let h = cache[second.w];
        s = add_pair(s, Sums(subgroupBroadcast(x.even, 4u), subgroupBroadcast(x.odd, 4u)),
                     e.x, f.x, g.x, h.x);
        s = add_pair(s, Sums(subgroupBroadcast(x.even, 5u), subgroupBroadcast(x.odd, 5u)),
                     e.y, f.y, g.y, h.y);
        s = add_pair(s, Sums(subgroupBroadcast(x.even, 6u), subgroupBroadcast(x.odd, 6u)),
                     e.z, f.z, g.z, h.z);
        s = add_pair(s, Sums(subgroupBroadcast(x.even, 7u), subgroupBroadcast(x.odd, 7u)),
                     e.w, f.w, g.w, h.w);
    }
    return s;
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
    let vectors = half / 4u;
    let near = min(lane, vectors - 1u);
    let far = min(lane + 8u, vectors - 1u);
    var top = vec4(LOWEST);
    var total = vec4(0.0);
    var y = Eight();
    var z = Eight();
    for (var t = seen / 32u * 32u; t < m.w; t += 32u) {
        let at = t + lane;
        let slot = slots_of(m, positions_of(m, at));
        let s = scores(h.at, keys_at(slot, h.kv) / 4u, lane);
        let soft = soften(s, at, seen, m.w, top, total);
        top = soft.top;
        total = soft.total;
        let v = values_at(slot, h.kv) / 4u;
        y = scaled(y, soft.keep);
        y = add_values(add_values(y, v.x, near, soft.w.a), v.y, near, soft.w.b);
        y = add_values(add_values(y, v.z, near, soft.w.c), v.w, near, soft.w.d);
        if vectors > 8u {
            z = scaled(z, soft.keep);
            z = add_values(add_values(z, v.x, far, soft.w.a), v.y, far, soft.w.b);
            z = add_values(add_values(z, v.z, far, soft.w.c), v.w, far, soft.w.d);
        }
    }
    let inverse = 1.0 / total;
    if lane < vectors { store_eight(h.at, h.count, lane * 4u, scaled(y, inverse)); }
    if lane + 8u < vectors { store_eight(h.at, h.count, (lane + 8u) * 4u, scaled(z, inverse)); }
}
