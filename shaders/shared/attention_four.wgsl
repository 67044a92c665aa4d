// What a subgroup does with four heads that share keys.
// One pair of elements of four heads.
struct Sums { even: vec4<f32>, odd: vec4<f32> }
// Four positions of an invocation: eight apart, so that their order is that of the sequence.
struct Scores { a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32> }

fn four(heads: vec4<u32>, i: u32) -> Sums {
    let a = q[heads.x + i];
    let b = q[heads.y + i];
    let c = q[heads.z + i];
    let d = q[heads.w + i];
    return Sums(vec4(a.x, b.x, c.x, d.x), vec4(a.y, b.y, c.y, d.y));
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

fn store(heads: vec4<u32>, count: u32, i: u32, y: Sums) {
    out[heads.x + i] = vec2(y.even.x, y.odd.x);
    if count > 1u { out[heads.y + i] = vec2(y.even.y, y.odd.y); }
    if count > 2u { out[heads.z + i] = vec2(y.even.z, y.odd.z); }
    if count > 3u { out[heads.w + i] = vec2(y.even.w, y.odd.w); }
}
