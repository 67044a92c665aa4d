// Quants of eight bits, two's complement in the file, turned into unsigned bytes around 128.
fn extra(tile: u32, b: u32, quad: u32) -> Extra {
    return Extra(vec4(0u), vec4(0u));
}

fn words(tile: u32, b: u32, j: u32, quad: u32, e: Extra) -> Words {
    let at = tile + b * 32u + j * 4u + quad;
    return Words(weights[at] ^ vec4(0x80808080u), weights[at + 16u] ^ vec4(0x80808080u));
}
