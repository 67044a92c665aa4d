// Heads of codes, as quant/groups.rs makes them: 16-bit scales, two to a word, then blocks of 32 codes.
@group(0) @binding(1) var<storage, read> cache: array<u32>;

// A block of 8-bit codes has one scale and is 8 words, element after element.
fn pair_8(head: u32, i: u32) -> vec2<f32> {
    let scales = unpack2x16float(cache[head + i / 32u]);
    let first = head + (p.head_dim + 63u) / 64u;
    let word = bitcast<i32>(cache[first + i / 2u] >> ((i & 1u) * 16u));
    let codes = vec2(extractBits(word, 0u, 8u), extractBits(word, 8u, 8u));
    return vec2<f32>(codes) * select(scales.x, scales.y, (i & 16u) != 0u);
}

// A block of 4-bit codes has a scale for each half and is 4 words: element e in the low half of byte e,
// e + 16 in the high half.
fn pair_4(head: u32, i: u32) -> vec2<f32> {
    let scales = unpack2x16float(cache[head + i / 16u]);
    let first = head + (p.head_dim + 31u) / 32u;
    let codes = cache[first + i / 16u * 4u + (i & 7u) / 2u] >> ((i & 1u) * 16u + (i & 8u) / 2u);
    let whole = vec2(f32(codes & 15u), f32((codes >> 8u) & 15u)) - 8.0;
    return whole * select(scales.x, scales.y, (i & 8u) != 0u);
}
