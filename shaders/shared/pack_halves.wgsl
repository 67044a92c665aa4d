// 32 quants as 16 words: word c has column c in its lower half and column 16 + c in its upper half.
alias Element = vec4<u32>;

fn store_step(b: u32, j: u32, first: vec4<i32>, second: vec4<i32>) {
    out[b * 4u + j] =
        (bitcast<vec4<u32>>(first) & vec4(0xFFFFu)) | (bitcast<vec4<u32>>(second) << vec4(16u));
}
