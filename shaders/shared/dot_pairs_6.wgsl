// Six bits around 0, each half block with its own scale.
//!import pairs
fn dot_step(w: Pairs, x: vec4<u32>, f: Affine) -> vec4<i32> {
    return f.first * upper(w.a * vec4(x.x) + w.b * vec4(x.y))
        + f.second * upper(w.c * vec4(x.z) + w.d * vec4(x.w));
}
