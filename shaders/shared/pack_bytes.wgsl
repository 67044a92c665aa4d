// A plane of 32 quants as the bytes of eight words, in column order.
alias Element = u32;

fn store_step(at: u32, j: u32, a: vec4<i32>, b: vec4<i32>) {
    out[at * 8u + j] = pack4xI8(a);
    out[at * 8u + 4u + j] = pack4xI8(b);
}
