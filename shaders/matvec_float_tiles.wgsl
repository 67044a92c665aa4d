// matmul_float_tiles for few rows: 16 outputs of one row per workgroup, its 32 workers take one
// segment of the columns each.
//!import matmul_params
//!import float_bindings
//!import weight
//!import store_quad
//!import segment

const WORKERS = 32u;
// Pairs of columns in a segment.
const PAIRS = SEGMENT * 16u;
var<workgroup> parts: array<vec4<f32>, 128>;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let quad = local % 4u;
    let worker = local / 4u;
    let tile = group.x * p.tile;
    let row = p.row_first + group.y;
    let at = row * p.cols;
    let pairs = (p.cols + 1u) / 2u;
    let segments = (pairs + PAIRS - 1u) / PAIRS;
    var total = vec4(0.0);
    for (var base = 0u; base < segments; base += WORKERS) {
        let first = (base + worker) * PAIRS;
        var sum = vec4(0.0);
        for (var pair = first; pair < min(first + PAIRS, pairs); pair++) {
            let w = columns(tile, pair, quad);
            let even = x[at + pair * 2u];
            let odd = x[at + min(pair * 2u + 1u, p.cols - 1u)];
            sum = fma(w.odd, vec4(odd), fma(w.even, vec4(even), sum));
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
