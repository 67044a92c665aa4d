// Up to five bits: eight products of a chain fit in 16 bits (8 * 31 * 127 < 32768).
//!import pairs
fn dot_step(w: Pairs, x: vec4<u32>, f: Affine) -> vec4<i32> {
    return upper(w.a * vec4(x.x) + w.b * vec4(x.y) + w.c * vec4(x.z) + w.d * vec4(x.w));
}
