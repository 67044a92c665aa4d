// One f16 scale per block.
fn affine(tile: u32, b: u32, quad: u32) -> Affine {
    let v = weights[tile + p.scales + b * 2u + quad / 2u];
    return Affine(half_floats(v, quad), vec4(0.0), vec4(1), vec4(1));
}

fn block_value(a: Affine, sum: vec4<f32>, xsum: f32) -> vec4<f32> {
    return a.scale * sum;
}

// Whether half blocks have factors of their own.
const PARTED = false;
