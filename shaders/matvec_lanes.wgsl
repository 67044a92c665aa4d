// matmul_lanes for one row: the same sums in the same order. Each invocation loads a part of x.
//!import matmul_params
//!import matmul_bindings
//!import weight
//!import dot
//!import store_quad

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
    let blocks = p.cols / 32u;
    let row = p.row_first + group.y;
    var sum = vec4(0.0);
    for (var b = 0u; b < blocks; b++) {
        let f = affine(tile, b, quad);
        let high = extra(tile, b, quad);
        // Lanes 0 to 3 load the high plane, 4 to 7 the low one.
        let v = x[(row * blocks + b) * 8u + lane % 8u];
        let w0 = pairs(words(tile, b, 0u, quad, high));
        let w1 = pairs(words(tile, b, 1u, quad, high));
        let w2 = pairs(words(tile, b, 2u, quad, high));
        let w3 = pairs(words(tile, b, 3u, quad, high));
        let top = dot_step(w0, subgroupBroadcast(v, 0u), f) + dot_step(w1, subgroupBroadcast(v, 1u), f)
            + dot_step(w2, subgroupBroadcast(v, 2u), f) + dot_step(w3, subgroupBroadcast(v, 3u), f);
        let low = dot_step(w0, subgroupBroadcast(v, 4u), f) + dot_step(w1, subgroupBroadcast(v, 5u), f)
            + dot_step(w2, subgroupBroadcast(v, 6u), f) + dot_step(w3, subgroupBroadcast(v, 7u), f);
        let i = top * 128 + low;
        let s = x_scales[row * blocks + b];
        sum = fma(block_value(f, i, s.y), vec4(s.x), sum);
    }
    if index < quads {
        store_quad(row, index * 4u, sum);
    }
}
