// Linear layer with float weights for software adapters: one chain of fused multiply-adds over the
// columns per output. An invocation owns four consecutive outputs and eight rows of x; each loads x
// for one row and the subgroup shares it (see matmul_lanes).
//!import matmul_params
//!import float_bindings
//!import weight
//!import store_quad

fn add(w: Columns, x: vec2<f32>, sum: vec4<f32>) -> vec4<f32> {
    return fma(w.odd, vec4(x.y), fma(w.even, vec4(x.x), sum));
}

@compute @workgroup_size(8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let quads = (p.slab_outs + 3u) / 4u;
    let index = group.x * 8u + local;
    let quad_index = min(index, quads - 1u);
    let tile = quad_index / 4u * p.tile;
    let quad = quad_index % 4u;
    let row = p.row_first + group.y * 8u;
    // Rows past the end repeat the last one and are not stored.
    let at = min(row + lane, p.rows - 1u) * p.cols;
    var f0 = vec4(0.0);
    var f1 = vec4(0.0);
    var f2 = vec4(0.0);
    var f3 = vec4(0.0);
    var f4 = vec4(0.0);
    var f5 = vec4(0.0);
    var f6 = vec4(0.0);
    var f7 = vec4(0.0);
    for (var pair = 0u; pair * 2u < p.cols; pair++) {
        let w = columns(tile, pair, quad);
        let v = vec2(x[at + pair * 2u], x[at + min(pair * 2u + 1u, p.cols - 1u)]);
        f0 = add(w, subgroupBroadcast(v, 0u), f0);
        f1 = add(w, subgroupBroadcast(v, 1u), f1);
        f2 = add(w, subgroupBroadcast(v, 2u), f2);
        f3 = add(w, subgroupBroadcast(v, 3u), f3);
        f4 = add(w, subgroupBroadcast(v, 4u), f4);
        f5 = add(w, subgroupBroadcast(v, 5u), f5);
        f6 = add(w, subgroupBroadcast(v, 6u), f6);
        f7 = add(w, subgroupBroadcast(v, 7u), f7);
    }
    if index < quads {
        store_quad(row, index * 4u, f0);
        store_quad(row + 1u, index * 4u, f1);
        store_quad(row + 2u, index * 4u, f2);
        store_quad(row + 3u, index * 4u, f3);
        store_quad(row + 4u, index * 4u, f4);
        store_quad(row + 5u, index * 4u, f5);
        store_quad(row + 6u, index * 4u, f6);
        store_quad(row + 7u, index * 4u, f7);
    }
}
