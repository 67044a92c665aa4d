// Quants of four bits.
fn extra(tile: u32, b: u32, quad: u32) -> Extra {
    return Extra(vec4(0u), vec4(0u));
}

fn words(tile: u32, b: u32, j: u32, quad: u32, e: Extra) -> Words {
    return nibbles(weights[tile + b * 16u + j * 4u + quad]);
}
