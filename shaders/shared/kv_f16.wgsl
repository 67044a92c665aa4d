// Keys and values of 16-bit floats: a pair of elements is a word.
@group(0) @binding(1) var<storage, read> cache: array<u32>;
fn key_pair(head: u32, i: u32) -> vec2<f32> { return unpack2x16float(cache[head + i]); }
fn value_pair(head: u32, i: u32) -> vec2<f32> { return unpack2x16float(cache[head + i]); }
