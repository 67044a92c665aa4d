// BF16: two columns to a word; the upper half of an f32.
fn columns(tile: u32, pair: u32, quad: u32) -> Columns {
    let v = weights[tile + pair * 4u + quad];
    return Columns(bitcast<vec4<f32>>(v << vec4(16u)), bitcast<vec4<f32>>(v & vec4(0xFFFF0000u)));
}
