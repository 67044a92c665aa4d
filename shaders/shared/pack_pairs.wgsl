// A plane of 32 quants as 16 words of two 16-bit numbers: columns (c + 2, c), the partner of `pairs`.
alias Element = vec4<u32>;

fn pair(low: i32, high: i32) -> u32 {
    return bitcast<u32>(low) + (bitcast<u32>(high) << 16u);
}

fn store_step(at: u32, j: u32, a: vec4<i32>, b: vec4<i32>) {
    out[at * 4u + j] =
        vec4(pair(a.z, a.x), pair(a.w, a.y), pair(b.z, b.x), pair(b.w, b.y));
}
