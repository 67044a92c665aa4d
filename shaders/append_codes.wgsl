// Stores keys and values in their cache slots as codes with a scale for each group of 32 elements. One
// invocation per word of scales: two groups of one head. The rules are those of quant/groups.rs.
//!import flat
struct Params {
    count: u32, words: u32, kv_heads: u32, head_dim: u32, page: u32, key: u32, value: u32, key_bits: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> k: array<f32>;
@group(0) @binding(1) var<storage, read> v: array<f32>;
@group(0) @binding(2) var<storage, read> slots: array<u32>;
@group(0) @binding(3) var<storage, read_write> cache: array<u32>;

const LEAST = 1e-6;
const REACHES = array<f32, 12>(6.5, 7.0, 7.25, 7.5, 7.75, 8.0, 8.25, 8.5, 9.0, 9.5, 10.0, 11.0);

// Elements 4 i to 4 i + 3 of the group at hand.
var<private> x: array<vec4<f32>, 8>;

fn element(of_keys: bool, at: u32, valid: bool) -> f32 {
    if !valid { return 0.0; }
    if of_keys { return k[at]; }
    return v[at];
}

// Loads the group that starts at `first` of a head whose elements start at `start`.
fn load(of_keys: bool, start: u32, first: u32) {
    for (var i = 0u; i < 8u; i++) {
        for (var j = 0u; j < 4u; j++) {
            let at = first + 4u * i + j;
            x[i][j] = element(of_keys, start + at, at < p.head_dim);
        }
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

// Writes four words of 4-bit codes; returns the scale.
fn encode_4(to: u32) -> f32 {
    var high = vec4(0.0);
    var low = vec4(0.0);
    for (var i = 0u; i < 8u; i++) {
        high = max(high, x[i]);
        low = min(low, x[i]);
    }
    let most = max(max(high.x, high.y), max(high.z, high.w));
    let least = min(min(low.x, low.y), min(low.z, low.w));
    let peak = select(least, most, most > -least);
    var best = -1.0;
    var scale = 0.0;
    var taken = 0.0;
    if abs(peak) >= LEAST {
        for (var c = 0u; c < 12u; c++) {
            let inverse = -REACHES[c] / peak;
            var product = 0.0;
            var square = 0.0;
            for (var i = 0u; i < 8u; i++) {
                let codes = codes_4(i, inverse);
                product += dot(x[i], codes);
                square += dot(codes, codes);
            }
            let gain = product * product / square;
            if gain > best {
                best = gain;
                scale = product / square;
                taken = inverse;
            }
        }
    }
    for (var i = 0u; i < 4u; i++) {
        cache[to + i] = halves(codes_4(i, taken)) | (halves(codes_4(i + 4u, taken)) << 4u);
    }
    return scale;
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
    let word = i % p.words;
    let head = select(i - p.count / 2u, i, of_keys) / p.words;
    let slot = slots[head / p.kv_heads];
    let kv = head % p.kv_heads;
    var at = slot / 16u * p.page;
    if of_keys {
        at += (slot % 16u * p.kv_heads + kv) * p.key;
    } else {
        at += 16u * p.kv_heads * p.key + (slot % 16u * p.kv_heads + kv) * p.value;
    }
    let bits = select(4u, p.key_bits, of_keys);
    var scales = vec2(0.0);
    for (var half = 0u; half < 2u; half++) {
        let first = (2u * word + half) * 32u;
        if first >= p.head_dim { continue; }
        load(of_keys, head * p.head_dim, first);
        let to = at + p.words + (2u * word + half) * bits;
        if bits == 8u { scales[half] = encode_8(to); } else { scales[half] = encode_4(to); }
    }
    cache[at + word] = pack2x16float(scales);
}
