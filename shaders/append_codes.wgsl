// Stores keys and values in their cache slots as scales and codes, one invocation for two blocks of 32
// elements of a head. The rules are those of quant/groups.rs.
//!import flat
struct Params {
    count: u32, pairs: u32, kv_heads: u32, head_dim: u32, page: u32, key: u32, value: u32, key_bits: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> k: array<f32>;
@group(0) @binding(1) var<storage, read> v: array<f32>;
@group(0) @binding(2) var<storage, read> slots: array<u32>;
@group(0) @binding(3) var<storage, read_write> cache: array<u32>;

const LEAST = 1e-6;
const REACHES = array<f32, 12>(6.5, 7.0, 7.25, 7.5, 7.75, 8.0, 8.25, 8.5, 9.0, 9.5, 10.0, 11.0);

// Elements 4 i to 4 i + 3 of the block at hand.
var<private> x: array<vec4<f32>, 8>;

// Loads the block that starts at `first` of a head whose elements start at `start`.
fn load(of_keys: bool, start: u32, first: u32) {
    for (var i = 0u; i < 8u; i++) {
        var four = vec4(0.0);
        for (var j = 0u; j < 4u; j++) {
            let at = first + 4u * i + j;
            if at >= p.head_dim { continue; }
            if of_keys { four[j] = k[start + at]; } else { four[j] = v[start + at]; }
        }
        x[i] = four;
    }
}

// Writes eight words of 8-bit codes; returns the scale.
fn encode_8(to: u32) -> f32 {
    var most = vec4(0.0);
    for (var i = 0u; i < 8u; i++) { most = max(most, abs(x[i])); }
    let peak = max(max(most.x, most.y), max(most.z, most.w));
    let inverse = select(0.0, 127.0 / max(peak, LEAST), peak >= LEAST);
    for (var i = 0u; i < 8u; i++) {
        let codes = vec4<i32>(round(x[i] * inverse)) & vec4(255);
        cache[to + i] = u32(codes.x | (codes.y << 8u) | (codes.z << 16u) | (codes.w << 24u));
    }
    return select(0.0, peak / 127.0, peak >= LEAST);
}

fn codes_4(i: u32, inverse: f32) -> vec4<f32> {
    return clamp(round(x[i] * inverse), vec4(-8.0), vec4(7.0));
}

// Four codes plus eight, in the low halves of the bytes of a word.
fn halves(codes: vec4<f32>) -> u32 {
    let whole = vec4<u32>(codes + 8.0);
    return whole.x | (whole.y << 8u) | (whole.z << 16u) | (whole.w << 24u);
}

// What to multiply the half block from `x[first]` on with to get 4-bit codes, and their scale.
fn search(first: u32, of_keys: bool) -> vec2<f32> {
    let high = max(max(x[first], x[first + 1u]), max(x[first + 2u], x[first + 3u]));
    let low = min(min(x[first], x[first + 1u]), min(x[first + 2u], x[first + 3u]));
    let most = max(max(high.x, high.y), max(high.z, high.w));
    let least = min(min(low.x, low.y), min(low.z, low.w));
    let peak = select(least, most, most > -least);
    if abs(peak) < LEAST { return vec2(0.0); }
    var whole = 0.0;
    for (var i = first; i < first + 4u; i++) { whole += dot(x[i], x[i]); }
    var best = -1.0;
    var found = vec2(0.0);
    for (var c = 0u; c < 12u; c++) {
        let inverse = -REACHES[c] / peak;
        var product = 0.0;
        var square = 0.0;
        for (var i = first; i < first + 4u; i++) {
            let codes = codes_4(i, inverse);
            product += dot(x[i], codes);
            square += dot(codes, codes);
        }
        let gain = product * product / square;
        if gain > best {
            best = gain;
            found = vec2(inverse, select(product / square, whole / product, of_keys));
        }
    }
    return found;
}

// Writes four words of 4-bit codes; returns the scales of the halves.
fn encode_4(to: u32, of_keys: bool) -> vec2<f32> {
    let low = search(0u, of_keys);
    let high = search(4u, of_keys);
    for (var i = 0u; i < 4u; i++) {
        cache[to + i] = halves(codes_4(i, low.x)) | (halves(codes_4(i + 4u, high.x)) << 4u);
    }
    return vec2(low.y, high.y);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat(group, groups, local, 64u);
    if i >= p.count { return; }
    // Keys of all rows first, then values.
    let of_keys = i < p.count / 2u;
    let pair = i % p.pairs;
    let head = select(i - p.count / 2u, i, of_keys) / p.pairs;
    let slot = slots[head / p.kv_heads];
    let kv = head % p.kv_heads;
    var at = slot / 16u * p.page;
    if of_keys {
        at += (slot % 16u * p.kv_heads + kv) * p.key;
    } else {
        at += 16u * p.kv_heads * p.key + (slot % 16u * p.kv_heads + kv) * p.value;
    }
    let wide = of_keys && p.key_bits == 8u;
    let codes = at + select((p.head_dim + 31u) / 32u, p.pairs, wide);
    var scales = vec2(0.0);
    for (var block = 2u * pair; block < 2u * pair + 2u; block++) {
        if block * 32u >= p.head_dim { continue; }
        load(of_keys, head * p.head_dim, block * 32u);
        if wide {
            scales[block & 1u] = encode_8(codes + block * 8u);
        } else {
            cache[at + block] = pack2x16float(encode_4(codes + block * 4u, of_keys));
        }
    }
    if wide { cache[at + pair] = pack2x16float(scales); }
}
