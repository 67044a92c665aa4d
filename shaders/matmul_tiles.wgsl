// Quantized linear layer for GPUs: 64 outputs x 64 rows per workgroup, one block of 32 columns in
// workgroup memory at a time, 4 x 4 results per invocation.
//!import matmul_params
//!import matmul_bindings
//!import weight
//!import bytes
//!import store_quad
//!import segment

struct Sums { a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32> }

// [column / 4][quad of outputs].
var<workgroup> quants: array<vec4<u32>, 128>;
var<workgroup> factors: array<Affine, 16>;
// [plane][half block][row].
var<workgroup> rounded: array<vec4<u32>, 256>;
var<workgroup> row_scales: array<vec2<f32>, 64>;

fn fetch(local: u32, b: u32, out_start: u32, row_start: u32, blocks: u32) {
    let part = local % 64u;
    let row = min(row_start + part, p.rows - 1u) * blocks + b;
    if local < 64u {
        let quads = (p.slab_outs + 3u) / 4u;
        let index = min(out_start / 4u + part % 16u, quads - 1u);
        let tile = index / 4u * p.tile;
        let j = part / 16u;
        let w = words(tile, b, j, index % 4u, extra(tile, b, index % 4u));
        quants[j * 16u + part % 16u] = centred(w.a);
        quants[(j + 4u) * 16u + part % 16u] = centred(w.b);
        if j == 0u { factors[part] = affine(tile, b, index % 4u); }
    } else if local < 128u {
        rounded[part] = x[row * 4u];
        rounded[64u + part] = x[row * 4u + 1u];
    } else if local < 192u {
        rounded[128u + part] = x[row * 4u + 2u];
        rounded[192u + part] = x[row * 4u + 3u];
    } else {
        row_scales[part] = x_scales[row];
    }
}

// Four words of one half of the block.
struct Half { a: vec4<u32>, b: vec4<u32>, c: vec4<u32>, d: vec4<u32> }

fn half_at(at: u32) -> Half {
    return Half(quants[at], quants[at + 16u], quants[at + 32u], quants[at + 48u]);
}

fn plane_sum(w: Half, v: vec4<u32>) -> vec4<i32> {
    return dot_word(w.a, v.x) + dot_word(w.b, v.y) + dot_word(w.c, v.z) + dot_word(w.d, v.w);
}

fn half_sum(w: Half, at: u32) -> vec4<i32> {
    return plane_sum(w, rounded[at]) * 128 + plane_sum(w, rounded[at + 128u]);
}

fn add_row(row: u32, f: Affine, first: Half, second: Half, sum: vec4<f32>) -> vec4<f32> {
    let s = row_scales[row];
    let i = f.first * half_sum(first, row) + f.second * half_sum(second, row + 64u);
    return fma(block_value(f, vec4<f32>(i), s.y), vec4(s.x), sum);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let blocks = p.cols / 32u;
    let out_start = group.x * 64u;
    let row_start = p.row_first + group.y * 64u;
    let quad = local % 16u;
    let row = local / 16u * 4u;
    var part = Sums();
    var total = Sums();
    for (var b = 0u; b < blocks; b++) {
        workgroupBarrier();
        fetch(local, b, out_start, row_start, blocks);
        workgroupBarrier();
        let f = factors[quad];
        let first = half_at(quad);
        let second = half_at(64u + quad);
        part.a = add_row(row, f, first, second, part.a);
        part.b = add_row(row + 1u, f, first, second, part.b);
        part.c = add_row(row + 2u, f, first, second, part.c);
        part.d = add_row(row + 3u, f, first, second, part.d);
        if b % SEGMENT == SEGMENT - 1u || b == blocks - 1u {
            total.a += part.a;
            total.b += part.b;
            total.c += part.c;
            total.d += part.d;
            part = Sums();
        }
    }
    let at = out_start + quad * 4u;
    store_quad(row_start + row, at, total.a);
    store_quad(row_start + row + 1u, at, total.b);
    store_quad(row_start + row + 2u, at, total.c);
    store_quad(row_start + row + 3u, at, total.d);
}
