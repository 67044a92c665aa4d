// Four signed columns per word, for dot4I8Packed.
fn centred(w: vec4<u32>) -> vec4<u32> {
    let sign = vec4(0x80808080u);
    if CENTRE == 128u { return w ^ sign; }
    // The sign bit keeps each byte from borrowing off its neighbour.
    return ((w | sign) - vec4(CENTRE * 0x01010101u)) ^ sign;
}

fn dot_word(w: vec4<u32>, x: u32) -> vec4<i32> {
    return vec4(dot4I8Packed(w.x, x), dot4I8Packed(w.y, x), dot4I8Packed(w.z, x),
                dot4I8Packed(w.w, x));
}
