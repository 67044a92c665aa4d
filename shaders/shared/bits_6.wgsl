// Quants of six bits: two words of the high plane, bit pair g % 4 of byte i is column 4g + i.
fn extra(tile: u32, b: u32, quad: u32) -> Extra {
    let at = tile + p.high + b * 8u + quad;
    return Extra(weights[at], weights[at + 4u]);
}

fn words(tile: u32, b: u32, j: u32, quad: u32, e: Extra) -> Words {
    let n = nibbles(weights[tile + b * 16u + j * 4u + quad]);
    let mask = vec4(0x03030303u);
    return Words(n.a | (((e.a >> vec4(2u * j)) & mask) << vec4(4u)),
                 n.b | (((e.b >> vec4(2u * j)) & mask) << vec4(4u)));
}
