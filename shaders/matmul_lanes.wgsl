// Quantized linear layer without workgroup memory, for software adapters. An invocation owns four
// consecutive outputs, as many 32 further on, and eight rows of x: one load of weights serves eight rows.
// Each of the eight invocations loads x for one of the rows and the subgroup shares it: on llvmpipe a
// load costs the same whether its lanes read one address or eight.
//!import matmul_params
//!import matmul_bindings
//!import weight
//!import lane_sums
//!import store_quad

// Sums of the near and of the far outputs.
struct Both { near: vec4<f32>, far: vec4<f32> }

fn add_steps(near: Step, far: Step, first: vec4<f32>, second: vec4<f32>, sum: Both) -> Both {
    return Both(add_step(near, first, second, sum.near), add_step(far, first, second, sum.far));
}

fn add_blocks(near: Affine, far: Affine, block: Both, s: vec2<f32>, sum: Both) -> Both {
    return Both(add_block(near, block.near, s, sum.near), add_block(far, block.far, s, sum.far));
}

fn store_both(row: u32, near: u32, quads: u32, sum: Both) {
    if near < quads { store_quad(row, near * 4u, sum.near); }
    if near + 8u < quads { store_quad(row, near * 4u + 32u, sum.far); }
}

@compute @workgroup_size(8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let quads = (p.slab_outs + 3u) / 4u;
    let near = group.x * 16u + local;
    let near_quad = min(near, quads - 1u);
    let far_quad = min(near + 8u, quads - 1u);
    let near_tile = near_quad / 4u * p.tile;
    let far_tile = far_quad / 4u * p.tile;
    let blocks = p.cols / 32u;
    let row = p.row_first + group.y * 8u;
    // Rows past the end repeat the last one and are not stored.
    let at = min(row + lane, p.rows - 1u) * blocks;
    var f0 = Both();
    var f1 = Both();
    var f2 = Both();
    var f3 = Both();
    var f4 = Both();
    var f5 = Both();
    var f6 = Both();
    var f7 = Both();
    for (var b = 0u; b < blocks; b++) {
        let n = affine(near_tile, b, near_quad % 4u);
        let m = affine(far_tile, b, far_quad % 4u);
        let near_high = extra(near_tile, b, near_quad % 4u);
        let far_high = extra(far_tile, b, far_quad % 4u);
        let s = x_scales[at + b];
        var i0 = Both();
        var i1 = Both();
        var i2 = Both();
        var i3 = Both();
        var i4 = Both();
        var i5 = Both();
        var i6 = Both();
        var i7 = Both();
        // A loop: unrolled, its instructions would not fit the processor's first cache.
        for (var k = 0u; k < 4u; k++) {
            let v = step(near_tile, b, k, near_quad % 4u, near_high, n);
            let w = step(far_tile, b, k, far_quad % 4u, far_high, m);
            let x4 = x[(at + b) * 4u + k];
            let y = first_half(x4);
            let z = second_half(x4);
            i0 = add_steps(v, w, subgroupBroadcast(y, 0u), subgroupBroadcast(z, 0u), i0);
            i1 = add_steps(v, w, subgroupBroadcast(y, 1u), subgroupBroadcast(z, 1u), i1);
            i2 = add_steps(v, w, subgroupBroadcast(y, 2u), subgroupBroadcast(z, 2u), i2);
            i3 = add_steps(v, w, subgroupBroadcast(y, 3u), subgroupBroadcast(z, 3u), i3);
            i4 = add_steps(v, w, subgroupBroadcast(y, 4u), subgroupBroadcast(z, 4u), i4);
            i5 = add_steps(v, w, subgroupBroadcast(y, 5u), subgroupBroadcast(z, 5u), i5);
            i6 = add_steps(v, w, subgroupBroadcast(y, 6u), subgroupBroadcast(z, 6u), i6);
            i7 = add_steps(v, w, subgroupBroadcast(y, 7u), subgroupBroadcast(z, 7u), i7);
        }
        f0 = add_blocks(n, m, i0, subgroupBroadcast(s, 0u), f0);
        f1 = add_blocks(n, m, i1, subgroupBroadcast(s, 1u), f1);
        f2 = add_blocks(n, m, i2, subgroupBroadcast(s, 2u), f2);
        f3 = add_blocks(n, m, i3, subgroupBroadcast(s, 3u), f3);
        f4 = add_blocks(n, m, i4, subgroupBroadcast(s, 4u), f4);
        f5 = add_blocks(n, m, i5, subgroupBroadcast(s, 5u), f5);
        f6 = add_blocks(n, m, i6, subgroupBroadcast(s, 6u), f6);
        f7 = add_blocks(n, m, i7, subgroupBroadcast(s, 7u), f7);
    }
    store_both(row, near, quads, f0);
    store_both(row + 1u, near, quads, f1);
    store_both(row + 2u, near, quads, f2);
    store_both(row + 3u, near, quads, f3);
    store_both(row + 4u, near, quads, f4);
    store_both(row + 5u, near, quads, f5);
    store_both(row + 6u, near, quads, f6);
    store_both(row + 7u, near, quads, f7);
}
