// Linear layer with float weights for GPUs: 64 outputs x 64 rows per workgroup, 16 columns in
// workgroup memory at a time, 4 x 4 results per invocation.
//!import matmul_params
//!import float_bindings
//!import weight
//!import store_quad
//!import segment

struct Sums { a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32> }

const STEP = 16u;
// [column][quad of outputs], [column][row].
var<workgroup> weight_tile: array<vec4<f32>, 256>;
var<workgroup> x_tile: array<f32, 1024>;

fn fetch(local: u32, column: u32, out_start: u32, row_start: u32) {
    if local < 128u {
        let quads = (p.slab_outs + 3u) / 4u;
        let index = min(out_start / 4u + local % 16u, quads - 1u);
        let pair = column / 2u + local / 16u;
        var w = Columns(vec4(0.0), vec4(0.0));
        if pair * 2u < p.cols { w = columns(index / 4u * p.tile, pair, index % 4u); }
        weight_tile[local / 16u * 32u + local % 16u] = w.even;
        weight_tile[local / 16u * 32u + 16u + local % 16u] = w.odd;
    }
    let k = local % STEP;
    for (var i = local / STEP; i < 64u; i += STEP) {
        let at = min(row_start + i, p.rows - 1u) * p.cols;
        x_tile[k * 64u + i] = select(0.0, x[at + min(column + k, p.cols - 1u)], column + k < p.cols);
    }
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let out_start = group.x * 64u;
    let row_start = p.row_first + group.y * 64u;
    let quad = local % 16u;
    let row = local / 16u * 4u;
    var part = Sums();
    var total = Sums();
    for (var column = 0u; column < p.cols; column += STEP) {
        workgroupBarrier();
        fetch(local, column, out_start, row_start);
        workgroupBarrier();
        for (var k = 0u; k < STEP; k++) {
            let w = weight_tile[k * 16u + quad];
            let v = k * 64u + row;
            part.a = fma(w, vec4(x_tile[v]), part.a);
            part.b = fma(w, vec4(x_tile[v + 1u]), part.b);
            part.c = fma(w, vec4(x_tile[v + 2u]), part.c);
            part.d = fma(w, vec4(x_tile[v + 3u]), part.d);
        }
        let next = column + STEP;
        if next % (SEGMENT * 32u) == 0u || next >= p.cols {
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
