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
// [half block][row].
var<workgroup> rounded: array<vec4<u32>, 128>;
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
        rounded[part] = x[row * 2u];
    } else if local < 192u {
        rounded[64u + part] = x[row * 2u + 1u];
    } else {
        row_scales[part] = x_scales[row];
    }
}

fn half_sum(first: u32, quad: u32, v: vec4<u32>) -> vec4<i32> {
    return dot_word(quants[first + quad], v.x) + dot_word(quants[first + 16u + quad], v.y)
        + dot_word(quants[first + 32u + quad], v.z) + dot_word(quants[first + 48u + quad], v.w);
}

fn add_row(row: u32, quad: u32, sum: vec4<f32>) -> vec4<f32> {
    let f = factors[quad];
    let s = row_scales[row];
    let i = f.first * half_sum(0u, quad, rounded[row])
        + f.second * half_sum(64u, quad, rounded[64u + row]);
    return fma(block_value(f, i, s.y), vec4(s.x), sum);
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
        part.a = add_row(row, quad, part.a);
        part.b = add_row(row + 1u, quad, part.b);
        part.c = add_row(row + 2u, quad, part.c);
        part.d = add_row(row + 3u, quad, part.d);
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
