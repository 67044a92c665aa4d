// matmul_lanes for one row: the same sums in the same order. Four invocations load what there is of x.
//!import matmul_params
//!import matmul_bindings
//!import weight
//!import lane_sums
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
        let v = x[(row * blocks + b) * 4u + lane % 4u];
        let y = first_half(v);
        let z = second_half(v);
        var block = vec4(0.0);
        block = add_step(step(tile, b, 0u, quad, high, f), subgroupBroadcast(y, 0u),
                         subgroupBroadcast(z, 0u), block);
        block = add_step(step(tile, b, 1u, quad, high, f), subgroupBroadcast(y, 1u),
                         subgroupBroadcast(z, 1u), block);
        block = add_step(step(tile, b, 2u, quad, high, f), subgroupBroadcast(y, 2u),
                         subgroupBroadcast(z, 2u), block);
        block = add_step(step(tile, b, 3u, quad, high, f), subgroupBroadcast(y, 3u),
                         subgroupBroadcast(z, 3u), block);
        sum = add_block(f, block, x_scales[row * blocks + b], sum);
    }
    if index < quads {
        store_quad(row, index * 4u, sum);
    }
}
