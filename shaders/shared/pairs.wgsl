// Two 16-bit lanes in one 32-bit multiplication. A word of weights holds columns (c, c + 2), its
// partner of x holds (c + 2, c): the upper half of their product is the sum of both products.
struct Pairs { a: vec4<u32>, b: vec4<u32>, c: vec4<u32>, d: vec4<u32> }

fn pairs(w: Words) -> Pairs {
    let mask = vec4(0x00FF00FFu);
    let centre = vec4(CENTRE * 0x00010001u);
    return Pairs((w.a & mask) - centre, ((w.a >> vec4(8u)) & mask) - centre,
                 (w.b & mask) - centre, ((w.b >> vec4(8u)) & mask) - centre);
}

// The upper half as a signed number; the lower half, signed too, has borrowed from it.
fn upper(sum: vec4<u32>) -> vec4<i32> {
    return vec4<i32>(sum + vec4(0x8000u)) >> vec4(16u);
}
