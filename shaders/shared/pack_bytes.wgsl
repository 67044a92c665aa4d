// 32 quants as bytes of eight words, steps j and j + 4 beside each other.
alias Element = vec2<u32>;

fn store_step(at: u32, j: u32, a: vec4<i32>, b: vec4<i32>) {
    out[at * 4u + j] = vec2(pack4xI8(a), pack4xI8(b));
}
