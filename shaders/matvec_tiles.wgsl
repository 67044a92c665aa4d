// matmul_tiles for few rows: 16 outputs of ROWS rows per workgroup, its 32 workers take one segment
// of the columns each.
//!import matmul_params
//!import matmul_bindings
//!import weight
//!import bytes
//!import store_quad
//!import segment
//!import rows

const WORKERS = 32u;
// [row][worker][quad].
var<workgroup> parts: array<vec4<f32>, 128u * ROWS>;
alias Sums = array<vec4<f32>, ROWS>;

fn plane_sum(w: array<vec4<u32>, 4>, v: vec4<u32>) -> vec4<i32> {
    return dot_word(w[0], v.x) + dot_word(w[1], v.y) + dot_word(w[2], v.z) + dot_word(w[3], v.w);
}

fn half_sum(w: array<vec4<u32>, 4>, at: u32) -> vec4<i32> {
    return plane_sum(w, x[at]) * 128 + plane_sum(w, x[at + 2u]);
}

// Rows past the end repeat the last one and are not stored.
fn row_at(first: u32, r: u32) -> u32 {
    return min(first + r, p.rows - 1u);
}

fn add_block(b: u32, row: u32, tile: u32, quad: u32, sums: Sums) -> Sums {
    let f = affine(tile, b, quad);
    let high = extra(tile, b, quad);
    let w0 = words(tile, b, 0u, quad, high);
    let w1 = words(tile, b, 1u, quad, high);
    let w2 = words(tile, b, 2u, quad, high);
    let w3 = words(tile, b, 3u, quad, high);
    let first = array(centred(w0.a), centred(w1.a), centred(w2.a), centred(w3.a));
    let second = array(centred(w0.b), centred(w1.b), centred(w2.b), centred(w3.b));
    var out = sums;
    for (var r = 0u; r < ROWS; r++) {
        let at = row_at(row, r) * (p.cols / 32u) + b;
        let i = f.first * half_sum(first, at * 4u) + f.second * half_sum(second, at * 4u + 1u);
        let s = x_scales[at];
        out[r] = fma(block_value(f, vec4<f32>(i), s.y), vec4(s.x), out[r]);
    }
    return out;
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let blocks = p.cols / 32u;
    let quad = local % 4u;
    let worker = local / 4u;
    let tile = group.x * p.tile;
    let row = p.row_first + group.y * ROWS;
    let segments = (blocks + SEGMENT - 1u) / SEGMENT;
    // Of row `worker`.
    var total = vec4(0.0);
    for (var base = 0u; base < segments; base += WORKERS) {
        let first = (base + worker) * SEGMENT;
        var sums = Sums();
        for (var b = first; b < min(first + SEGMENT, blocks); b++) {
            sums = add_block(b, row, tile, quad, sums);
        }
        workgroupBarrier();
        for (var r = 0u; r < ROWS; r++) { parts[r * 128u + local] = sums[r]; }
        workgroupBarrier();
        if worker < ROWS {
            for (var s = 0u; s < min(WORKERS, segments - base); s++) {
                total += parts[worker * 128u + s * 4u + quad];
            }
        }
    }
    if worker < ROWS { store_quad(row + worker, group.x * 16u + quad * 4u, total); }
}
