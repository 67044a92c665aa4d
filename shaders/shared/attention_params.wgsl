// `width` counts words of one position's keys: half its elements. Host twin: params::Attention.
struct Params {
    rows: u32,
    row_first: u32,
    heads: u32,
    group: u32,
    head_dim: u32,
    width: u32,
    window: u32,
    scale: f32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> q: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read> cache: array<u32>;
// AttentionRow: page_start, prefix, path_start, length.
@group(0) @binding(2) var<storage, read> map: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> pages: array<u32>;
@group(0) @binding(4) var<storage, read> path: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<vec2<f32>>;

// Smaller than any score, yet finite: compilers may assume there are no infinities.
const LOWEST = -3.0e38;

// First word of the keys at logical position `position`; positions past the end repeat the last.
fn key_at(m: vec4<u32>, position: u32) -> u32 {
    let at = min(position, m.w - 1u);
    var slot: u32;
    if at < m.y {
        slot = pages[m.x + at / 16u] * 16u + at % 16u;
    } else {
        slot = path[m.z + at - m.y];
    }
    return (slot / 16u * 32u + slot % 16u) * p.width;
}

// First position seen through the window.
fn first_seen(length: u32) -> u32 {
    return select(0u, length - p.window, p.window > 0u && length > p.window);
}
