// Quants of five bits: byte i, bit g of the high plane is column 4g + i.
fn extra(tile: u32, b: u32, quad: u32) -> Extra {
    return Extra(weights[tile + p.high + b * 4u + quad], vec4(0u));
}

fn words(tile: u32, b: u32, j: u32, quad: u32, e: Extra) -> Words {
    let n = nibbles(weights[tile + b * 16u + j * 4u + quad]);
    let mask = vec4(0x01010101u);
    return Words(n.a | (((e.a >> vec4(j)) & mask) << vec4(4u)),
                 n.b | (((e.a >> vec4(j + 4u)) & mask) << vec4(4u)));
}
