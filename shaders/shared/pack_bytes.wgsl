// 32 quants as two planes of eight words, the bytes in column order: a quant is 128 * high + low.
alias Element = u32;

fn store_step(b: u32, j: u32, first: vec4<i32>, second: vec4<i32>) {
    // Nearest, so that the low plane has seven bits with their sign.
    let first_high = (first + vec4(64)) >> vec4(7u);
    let second_high = (second + vec4(64)) >> vec4(7u);
    out[b * 16u + j] = pack4xI8(first_high);
    out[b * 16u + 4u + j] = pack4xI8(second_high);
    out[b * 16u + 8u + j] = pack4xI8(first - first_high * 128);
    out[b * 16u + 12u + j] = pack4xI8(second - second_high * 128);
}
