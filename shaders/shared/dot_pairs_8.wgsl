// Eight bits: two products fill the 16 bits.
//!import pairs
fn dot_step(w: Pairs, x: vec4<u32>, f: Affine) -> vec4<i32> {
    return upper(w.a * vec4(x.x)) + upper(w.b * vec4(x.y)) + upper(w.c * vec4(x.z))
        + upper(w.d * vec4(x.w));
}
