// Heads of codes: a scale for each group of 32 elements in 16 bits, two to a word, then the codes.
fn scale_words() -> u32 { return (p.head_dim + 63u) / 64u; }

fn scale_of(head: u32, i: u32) -> f32 {
    let both = unpack2x16float(cache[head + i / 32u]);
    return select(both.x, both.y, (i & 16u) != 0u);
}

// A group of 8-bit codes is 8 words, element after element.
fn pair_8(head: u32, i: u32) -> vec2<f32> {
    let word = bitcast<i32>(cache[head + scale_words() + i / 2u] >> ((i & 1u) * 16u));
    let codes = vec2(extractBits(word, 0u, 8u), extractBits(word, 8u, 8u));
    return vec2<f32>(codes) * scale_of(head, i);
}

// A group of 4-bit codes is 4 words: element e in the low half of byte e, e + 16 in the high half.
fn pair_4(head: u32, i: u32) -> vec2<f32> {
    let word = cache[head + scale_words() + i / 16u * 4u + (i & 7u) / 2u];
    let codes = word >> ((i & 1u) * 16u + (i & 8u) / 2u);
    return (vec2(f32(codes & 15u), f32((codes >> 8u) & 15u)) - 8.0) * scale_of(head, i);
}
