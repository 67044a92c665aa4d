// f16 scale and f16 minimum per block.
fn affine(tile: u32, b: u32, quad: u32) -> Affine {
    let v = weights[tile + p.scales + b * 4u + quad];
    return Affine(low_half(v), high_half(v), vec4(1), vec4(1));
}

fn block_value(a: Affine, sum: vec4<f32>, xsum: f32) -> vec4<f32> {
    return fma(a.low, vec4(xsum), a.scale * sum);
}

// Whether half blocks have factors of their own.
const PARTED = false;
