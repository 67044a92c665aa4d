// Q6_K: an i8 scale per half block, times f16 d.
fn affine(tile: u32, b: u32, quad: u32) -> Affine {
    let h = halves(weights[tile + p.scales + b * 2u + quad / 2u], quad);
    let pairs = vec4(h.x << 16u, h.x, h.y << 16u, h.y);
    let d = half_floats(weights[tile + p.supers + (b / 8u) * 2u + quad / 2u], quad);
    return Affine(d, vec4(0.0), vec4<i32>(pairs << vec4(8u)) >> vec4(24u),
                  vec4<i32>(pairs) >> vec4(24u));
}

fn block_value(a: Affine, sum: vec4<f32>, xsum: f32) -> vec4<f32> {
    return a.scale * sum;
}

// Whether half blocks have factors of their own.
const PARTED = true;
