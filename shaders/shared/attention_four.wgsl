// What a subgroup does with up to four heads of a row that share keys: scores, weights, outputs.
//!import attention_heads

// Streaming softmax after a tile: the tile's weights, and what earlier sums are multiplied with.
struct Soft { w: Scores, keep: vec4<f32>, top: vec4<f32>, total: vec4<f32> }
// One pair of elements of four heads.
struct Sums { even: vec4<f32>, odd: vec4<f32> }
// Four positions of an invocation: eight apart, so that their order is that of the sequence.
struct Scores { a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32> }

// Past the end of a head: nothing, which any key is multiplied with.
fn four(heads: vec4<u32>, pair: u32) -> Sums {
    let half = p.head_dim / 2u;
    let i = min(pair, half - 1u);
    let a = q[heads.x + i];
    let b = q[heads.y + i];
    let c = q[heads.z + i];
    let d = q[heads.w + i];
    return Sums(select(vec4(0.0), vec4(a.x, b.x, c.x, d.x), pair < half),
                select(vec4(0.0), vec4(a.y, b.y, c.y, d.y), pair < half));
}

fn add(s: Scores, even: vec4<f32>, odd: vec4<f32>,
       a: vec2<f32>, b: vec2<f32>, c: vec2<f32>, d: vec2<f32>) -> Scores {
    return Scores(fma(odd, vec4(a.y), fma(even, vec4(a.x), s.a)),
                  fma(odd, vec4(b.y), fma(even, vec4(b.x), s.b)),
                  fma(odd, vec4(c.y), fma(even, vec4(c.x), s.c)),
                  fma(odd, vec4(d.y), fma(even, vec4(d.x), s.d)));
}

fn seen_only(s: vec4<f32>, position: u32, first: u32, length: u32) -> vec4<f32> {
    return select(vec4(LOWEST), s * p.scale, position >= first && position < length);
}

fn weigh(s: vec4<f32>, top: vec4<f32>) -> vec4<f32> {
    return select(exp(s - top), vec4(0.0), s == vec4(LOWEST));
}

// Takes in the scores of a tile, of which positions from `seen` to `length` are seen.
fn soften(s: Scores, at: u32, seen: u32, length: u32, top: vec4<f32>, total: vec4<f32>) -> Soft {
    let a = seen_only(s.a, at, seen, length);
    let b = seen_only(s.b, at + 8u, seen, length);
    let c = seen_only(s.c, at + 16u, seen, length);
    let d = seen_only(s.d, at + 24u, seen, length);
    let most = max(top, subgroupMax(max(max(a, b), max(c, d))));
    let keep = select(exp(top - most), vec4(0.0), top == vec4(LOWEST));
    let w = Scores(weigh(a, most), weigh(b, most), weigh(c, most), weigh(d, most));
    return Soft(w, keep, most, fma(total, keep, subgroupAdd((w.a + w.b) + (w.c + w.d))));
}

fn store(heads: vec4<u32>, count: u32, i: u32, y: Sums) {
    out[heads.x + i] = vec2(y.even.x, y.odd.x);
    if count > 1u { out[heads.y + i] = vec2(y.even.y, y.odd.y); }
    if count > 2u { out[heads.z + i] = vec2(y.even.z, y.odd.z); }
    if count > 3u { out[heads.w + i] = vec2(y.even.w, y.odd.w); }
}
