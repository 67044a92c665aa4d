// Four columns of four outputs, one unsigned byte each: columns 4j.. in `a`, 16 + 4j.. in `b`.
struct Words { a: vec4<u32>, b: vec4<u32> }

// Bits above the fourth, loaded once per block.
struct Extra { a: vec4<u32>, b: vec4<u32> }

// What turns integer sums into floats, for four outputs; `first` and `second` scale half blocks.
struct Affine { scale: vec4<f32>, low: vec4<f32>, first: vec4<i32>, second: vec4<i32> }

fn nibbles(w: vec4<u32>) -> Words {
    return Words(w & vec4(0x0F0F0F0Fu), (w >> vec4(4u)) & vec4(0x0F0F0F0Fu));
}

// f16 of four outputs out of a vector of eight.
fn halves(v: vec4<u32>, quad: u32) -> vec2<u32> {
    return select(v.xy, v.zw, (quad & 1u) == 1u);
}

fn half_floats(v: vec4<u32>, quad: u32) -> vec4<f32> {
    let h = halves(v, quad);
    return vec4(unpack2x16float(h.x), unpack2x16float(h.y));
}

fn low_half(v: vec4<u32>) -> vec4<f32> {
    return vec4(unpack2x16float(v.x).x, unpack2x16float(v.y).x, unpack2x16float(v.z).x,
                unpack2x16float(v.w).x);
}

fn high_half(v: vec4<u32>) -> vec4<f32> {
    return vec4(unpack2x16float(v.x).y, unpack2x16float(v.y).y, unpack2x16float(v.z).y,
                unpack2x16float(v.w).y);
}
