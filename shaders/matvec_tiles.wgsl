// matmul_tiles for few rows: 16 outputs of one row per workgroup, its 32 workers take one segment
// of the columns each.
//!import matmul_params
//!import matmul_bindings
//!import weight
//!import bytes
//!import store_quad
//!import segment

const WORKERS = 32u;
var<workgroup> parts: array<vec4<f32>, 128>;

fn plane_sum(w: array<vec4<u32>, 4>, v: vec4<u32>) -> vec4<i32> {
    return dot_word(w[0], v.x) + dot_word(w[1], v.y) + dot_word(w[2], v.z) + dot_word(w[3], v.w);
}

fn half_sum(w: array<vec4<u32>, 4>, at: u32) -> vec4<i32> {
    return plane_sum(w, x[at]) * 128 + plane_sum(w, x[at + 2u]);
}

fn add_block(b: u32, at: u32, tile: u32, quad: u32, sum: vec4<f32>) -> vec4<f32> {
    let f = affine(tile, b, quad);
    let high = extra(tile, b, quad);
    let w0 = words(tile, b, 0u, quad, high);
    let w1 = words(tile, b, 1u, quad, high);
    let w2 = words(tile, b, 2u, quad, high);
    let w3 = words(tile, b, 3u, quad, high);
    let first = array(centred(w0.a), centred(w1.a), centred(w2.a), centred(w3.a));
    let second = array(centred(w0.b), centred(w1.b), centred(w2.b), centred(w3.b));
    let i = f.first * half_sum(first, (at + b) * 4u)
        + f.second * half_sum(second, (at + b) * 4u + 1u);
    let s = x_scales[at + b];
    return fma(block_value(f, i, s.y), vec4(s.x), sum);
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let blocks = p.cols / 32u;
    let quad = local % 4u;
    let worker = local / 4u;
    let tile = group.x * p.tile;
    let row = p.row_first + group.y;
    let segments = (blocks + SEGMENT - 1u) / SEGMENT;
    var total = vec4(0.0);
    for (var base = 0u; base < segments; base += WORKERS) {
        let first = (base + worker) * SEGMENT;
        var sum = vec4(0.0);
        for (var b = first; b < min(first + SEGMENT, blocks); b++) {
            sum = add_block(b, row * blocks, tile, quad, sum);
        }
        workgroupBarrier();
        parts[local] = sum;
        workgroupBarrier();
        if worker == 0u {
            for (var s = 0u; s < min(WORKERS, segments - base); s++) {
                total += parts[s * 4u + quad];
            }
        }
    }
    if worker == 0u { store_quad(row, group.x * 16u + quad * 4u, total); }
}
