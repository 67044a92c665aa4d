// Quantized linear layer without workgroup memory, for software adapters. An invocation owns four
// consecutive outputs, as many 32 further on, and eight rows of x: one load of weights serves eight rows.
// Each of the eight invocations loads x for one of the rows and the subgroup shares it: on llvmpipe a
// load costs the same whether its lanes read one address or eight.
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
    let near = group.x * 16u + local;
    let far = near + 8u;
    let near_quad = min(near, quads - 1u);
    let far_quad = min(far, quads - 1u);
    let near_tile = near_quad / 4u * p.tile;
    let far_tile = far_quad / 4u * p.tile;
    let blocks = p.cols / 32u;
    let row = p.row_first + group.y * 8u;
    // Rows past the end repeat the last one and are not stored.
    let at = min(row + lane, p.rows - 1u) * blocks;
    var f0 = vec4(0.0);
    var g0 = vec4(0.0);
    var f1 = vec4(0.0);
    var g1 = vec4(0.0);
    var f2 = vec4(0.0);
    var g2 = vec4(0.0);
    var f3 = vec4(0.0);
    var g3 = vec4(0.0);
    var f4 = vec4(0.0);
    var g4 = vec4(0.0);
    var f5 = vec4(0.0);
    var g5 = vec4(0.0);
    var f6 = vec4(0.0);
    var g6 = vec4(0.0);
    var f7 = vec4(0.0);
    var g7 = vec4(0.0);
    for (var b = 0u; b < blocks; b++) {
        let n = affine(near_tile, b, near_quad % 4u);
        let m = affine(far_tile, b, far_quad % 4u);
        let near_high = extra(near_tile, b, near_quad % 4u);
        let far_high = extra(far_tile, b, far_quad % 4u);
        let s = x_scales[at + b];
        var i0 = vec4(0.0);
        var j0 = vec4(0.0);
        var i1 = vec4(0.0);
        var j1 = vec4(0.0);
        var i2 = vec4(0.0);
        var j2 = vec4(0.0);
        var i3 = vec4(0.0);
        var j3 = vec4(0.0);
        var i4 = vec4(0.0);
        var j4 = vec4(0.0);
        var i5 = vec4(0.0);
        var j5 = vec4(0.0);
        var i6 = vec4(0.0);
        var j6 = vec4(0.0);
        var i7 = vec4(0.0);
        var j7 = vec4(0.0);
        // A loop: unrolled, its instructions would not fit the processor's first cache.
        for (var k = 0u; k < 4u; k++) {
            let v = step(near_tile, b, k, near_quad % 4u, near_high, n);
            let w = step(far_tile, b, k, far_quad % 4u, far_high, m);
            let x4 = x[(at + b) * 4u + k];
            let y = first_half(x4);
            let z = second_half(x4);
            let y0 = subgroupBroadcast(y, 0u);
            let z0 = subgroupBroadcast(z, 0u);
            i0 = add_step(v, y0, z0, i0);
            j0 = add_step(w, y0, z0, j0);
            let y1 = subgroupBroadcast(y, 1u);
            let z1 = subgroupBroadcast(z, 1u);
            i1 = add_step(v, y1, z1, i1);
            j1 = add_step(w, y1, z1, j1);
            let y2 = subgroupBroadcast(y, 2u);
            let z2 = subgroupBroadcast(z, 2u);
            i2 = add_step(v, y2, z2, i2);
            j2 = add_step(w, y2, z2, j2);
            let y3 = subgroupBroadcast(y, 3u);
            let z3 = subgroupBroadcast(z, 3u);
            i3 = add_step(v, y3, z3, i3);
            j3 = add_step(w, y3, z3, j3);
            let y4 = subgroupBroadcast(y, 4u);
            let z4 = subgroupBroadcast(z, 4u);
            i4 = add_step(v, y4, z4, i4);
            j4 = add_step(w, y4, z4, j4);
            let y5 = subgroupBroadcast(y, 5u);
            let z5 = subgroupBroadcast(z, 5u);
            i5 = add_step(v, y5, z5, i5);
            j5 = add_step(w, y5, z5, j5);
            let y6 = subgroupBroadcast(y, 6u);
            let z6 = subgroupBroadcast(z, 6u);
            i6 = add_step(v, y6, z6, i6);
            j6 = add_step(w, y6, z6, j6);
            let y7 = subgroupBroadcast(y, 7u);
            let z7 = subgroupBroadcast(z, 7u);
            i7 = add_step(v, y7, z7, i7);
            j7 = add_step(w, y7, z7, j7);
        }
        let s0 = subgroupBroadcast(s, 0u);
        f0 = add_block(n, i0, s0, f0);
        g0 = add_block(m, j0, s0, g0);
        let s1 = subgroupBroadcast(s, 1u);
        f1 = add_block(n, i1, s1, f1);
        g1 = add_block(m, j1, s1, g1);
        let s2 = subgroupBroadcast(s, 2u);
        f2 = add_block(n, i2, s2, f2);
        g2 = add_block(m, j2, s2, g2);
        let s3 = subgroupBroadcast(s, 3u);
        f3 = add_block(n, i3, s3, f3);
        g3 = add_block(m, j3, s3, g3);
        let s4 = subgroupBroadcast(s, 4u);
        f4 = add_block(n, i4, s4, f4);
        g4 = add_block(m, j4, s4, g4);
        let s5 = subgroupBroadcast(s, 5u);
        f5 = add_block(n, i5, s5, f5);
        g5 = add_block(m, j5, s5, g5);
        let s6 = subgroupBroadcast(s, 6u);
        f6 = add_block(n, i6, s6, f6);
        g6 = add_block(m, j6, s6, g6);
        let s7 = subgroupBroadcast(s, 7u);
        f7 = add_block(n, i7, s7, f7);
        g7 = add_block(m, j7, s7, g7);
    }
    if near < quads {
        store_quad(row, near * 4u, f0);
        store_quad(row + 1u, near * 4u, f1);
        store_quad(row + 2u, near * 4u, f2);
        store_quad(row + 3u, near * 4u, f3);
        store_quad(row + 4u, near * 4u, f4);
        store_quad(row + 5u, near * 4u, f5);
        store_quad(row + 6u, near * 4u, f6);
        store_quad(row + 7u, near * 4u, f7);
    }
    if far < quads {
        store_quad(row, far * 4u, g0);
        store_quad(row + 1u, far * 4u, g1);
        store_quad(row + 2u, far * 4u, g2);
        store_quad(row + 3u, far * 4u, g3);
        store_quad(row + 4u, far * 4u, g4);
        store_quad(row + 5u, far * 4u, g5);
        store_quad(row + 6u, far * 4u, g6);
        store_quad(row + 7u, far * 4u, g7);
    }
}
