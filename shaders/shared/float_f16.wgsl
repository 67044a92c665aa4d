// F16: two columns to a word.
fn columns(tile: u32, pair: u32, quad: u32) -> Columns {
    let v = weights[tile + pair * 4u + quad];
    let a = unpack2x16float(v.x);
    let b = unpack2x16float(v.y);
    let c = unpack2x16float(v.z);
    let d = unpack2x16float(v.w);
    return Columns(vec4(a.x, b.x, c.x, d.x), vec4(a.y, b.y, c.y, d.y));
}
