// Sizes of the cache count words. Host twin: params::Attention.
struct Params {
    rows: u32,
    row_first: u32,
    heads: u32,
    group: u32,
    head_dim: u32,
    // One page; one head's key, one head's value.
    page: u32,
    key: u32,
    value: u32,
    window: u32,
    scale: f32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> q: array<vec2<f32>>;
// AttentionRow: page_start, prefix, path_start, length.
@group(0) @binding(2) var<storage, read> map: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> pages: array<u32>;
@group(0) @binding(4) var<storage, read> path: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<vec2<f32>>;

// Smaller than any score, yet finite: compilers may assume there are no infinities.
const LOWEST = -3.0e38;

// Slot of logical position `position`; positions past the end repeat the last.
fn slot_of(m: vec4<u32>, position: u32) -> u32 {
    let at = min(position, m.w - 1u);
    if at < m.y { return pages[m.x + at / 16u] * 16u + at % 16u; }
    return path[m.z + at - m.y];
}

// First word of a head's key in a slot, and of its value.
fn key_at(slot: u32, kv: u32) -> u32 {
    return slot / 16u * p.page + (slot % 16u * (p.heads / p.group) + kv) * p.key;
}
fn value_at(slot: u32, kv: u32) -> u32 {
    let kv_heads = p.heads / p.group;
    return slot / 16u * p.page + 16u * kv_heads * p.key + (slot % 16u * kv_heads + kv) * p.value;
}

// First position seen through the window.
fn first_seen(length: u32) -> u32 {
    return select(0u, length - p.window, p.window > 0u && length > p.window);
}
