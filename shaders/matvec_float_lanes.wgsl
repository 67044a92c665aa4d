// matmul_float_lanes for one row: the same sums in the same order.
//!import matmul_params
//!import float_bindings
//!import weight
//!import store_quad

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let quads = (p.slab_outs + 3u) / 4u;
    let index = group.x * 8u + local;
    let quad_index = min(index, quads - 1u);
    let tile = quad_index / 4u * p.tile;
    let quad = quad_index % 4u;
    let row = p.row_first + group.y;
    let at = row * p.cols;
    var sum = vec4(0.0);
    for (var pair = 0u; pair * 2u < p.cols; pair++) {
        let w = columns(tile, pair, quad);
        let even = x[at + pair * 2u];
        let odd = x[at + min(pair * 2u + 1u, p.cols - 1u)];
        sum = fma(w.odd, vec4(odd), fma(w.even, vec4(even), sum));
    }
    if index < quads {
        store_quad(row, index * 4u, sum);
    }
}
