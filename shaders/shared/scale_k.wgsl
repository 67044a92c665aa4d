// Q4_K, Q5_K: 6-bit scale and minimum per block (k_scale_min in src/quant), times f16 d and dmin.
fn affine(tile: u32, b: u32, quad: u32) -> Affine {
    let super_block = b / 8u;
    let at = tile + p.scales + super_block * 12u + quad;
    let shift = vec4((b & 3u) * 8u);
    let first = (weights[at] >> shift) & vec4(255u);
    let second = (weights[at + 4u] >> shift) & vec4(255u);
    let third = (weights[at + 8u] >> shift) & vec4(255u);
    let early = (b & 4u) == 0u;
    let scale = select((third & vec4(15u)) | ((first >> vec4(6u)) << vec4(4u)),
                       first & vec4(63u), early);
    let low = select((third >> vec4(4u)) | ((second >> vec4(6u)) << vec4(4u)),
                     second & vec4(63u), early);
    let d = weights[tile + p.supers + super_block * 4u + quad];
    return Affine(low_half(d) * vec4<f32>(scale), -(high_half(d) * vec4<f32>(low)),
                  vec4(1), vec4(1));
}

fn block_value(a: Affine, sum: vec4<f32>, xsum: f32) -> vec4<f32> {
    return fma(a.low, vec4(xsum), a.scale * sum);
}

// Whether half blocks have factors of their own.
const PARTED = false;
