// F32: one word per column.
fn columns(tile: u32, pair: u32, quad: u32) -> Columns {
    let at = tile + pair * 8u + quad;
    let odd = pair * 2u + 1u < p.cols;
    let second = bitcast<vec4<f32>>(weights[select(at, at + 4u, odd)]);
    return Columns(bitcast<vec4<f32>>(weights[at]), select(vec4(0.0), second, odd));
}
