// Causal attention, one invocation per row and head: streaming softmax over tiles of 16 logical
// positions. The running output lives in `out`, so no private array grows with the head.
//!import flat
//!import attention_params

struct Tile { a: vec4<u32>, b: vec4<u32>, c: vec4<u32>, d: vec4<u32> }

fn keys(m: vec4<u32>, t: u32, offset: u32) -> vec4<u32> {
    return vec4(key_at(m, t), key_at(m, t + 1u), key_at(m, t + 2u), key_at(m, t + 3u)) + offset;
}

fn scores(start: u32, k: vec4<u32>, first: vec4<u32>, seen: vec2<u32>) -> vec4<f32> {
    var s = vec4(0.0);
    for (var i = 0u; i < p.head_dim / 2u; i++) {
        let x = q[start + i];
        let a = unpack2x16float(cache[k.x + i]);
        let b = unpack2x16float(cache[k.y + i]);
        let c = unpack2x16float(cache[k.z + i]);
        let d = unpack2x16float(cache[k.w + i]);
        s = fma(vec4(a.x, b.x, c.x, d.x), vec4(x.x), s);
        s = fma(vec4(a.y, b.y, c.y, d.y), vec4(x.y), s);
    }
    let inside = first >= vec4(seen.x) & first < vec4(seen.y);
    return select(vec4(LOWEST), s * p.scale, inside);
}

fn peak(s: vec4<f32>) -> f32 {
    return max(max(s.x, s.y), max(s.z, s.w));
}

fn weigh(s: vec4<f32>, top: f32) -> vec4<f32> {
    return select(exp(s - top), vec4(0.0), s == vec4(LOWEST));
}

fn add_values(sum: vec2<f32>, v: vec4<u32>, w: vec4<f32>) -> vec2<f32> {
    var y = fma(unpack2x16float(cache[v.x]), vec2(w.x), sum);
    y = fma(unpack2x16float(cache[v.y]), vec2(w.y), y);
    y = fma(unpack2x16float(cache[v.z]), vec2(w.z), y);
    return fma(unpack2x16float(cache[v.w]), vec2(w.w), y);
}

@compute @workgroup_size(8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let index = flat(group, groups, local, 8u);
    if index >= p.rows * p.heads { return; }
    let row = p.row_first + index / p.heads;
    let head = index % p.heads;
    let m = map[row];
    let half = p.head_dim / 2u;
    let start = (row * p.heads + head) * half;
    let offset = head / p.group * half;
    let seen = vec2(first_seen(m.w), m.w);
    let lane = vec4(0u, 1u, 2u, 3u);
    var top = LOWEST;
    var total = 0.0;
    for (var t = seen.x / 16u * 16u; t < m.w; t += 16u) {
        let k = Tile(keys(m, t, offset), keys(m, t + 4u, offset), keys(m, t + 8u, offset),
                     keys(m, t + 12u, offset));
        let s0 = scores(start, k.a, lane + t, seen);
        let s1 = scores(start, k.b, lane + (t + 4u), seen);
        let s2 = scores(start, k.c, lane + (t + 8u), seen);
        let s3 = scores(start, k.d, lane + (t + 12u), seen);
        let new_top = max(max(top, max(peak(s0), peak(s1))), max(peak(s2), peak(s3)));
        let keep = select(exp(top - new_top), 0.0, top == LOWEST);
        let w0 = weigh(s0, new_top);
        let w1 = weigh(s1, new_top);
        let w2 = weigh(s2, new_top);
        let w3 = weigh(s3, new_top);
        let w = (w0 + w1) + (w2 + w3);
        total = fma(total, keep, (w.x + w.y) + (w.z + w.w));
        top = new_top;
        // Values lie one half page after their keys.
        let v = 16u * p.width;
        for (var i = 0u; i < half; i++) {
            var y = select(out[start + i] * keep, vec2(0.0), keep == 0.0);
            y = add_values(y, k.a + (v + i), w0);
            y = add_values(y, k.b + (v + i), w1);
            y = add_values(y, k.c + (v + i), w2);
            out[start + i] = add_values(y, k.d + (v + i), w3);
        }
    }
    let inverse = 1.0 / total;
    for (var i = 0u; i < half; i++) { out[start + i] *= inverse; }
}
