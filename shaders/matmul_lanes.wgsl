// Quantized linear layer without workgroup memory, for software adapters. An invocation owns four
// consecutive outputs and eight rows of x: one load of weights serves eight rows. Each of the eight
// invocations loads x for one of the rows and the subgroup shares it: on llvmpipe a load costs the
// same whether its lanes read one address or eight.
//!import matmul_params
//!import matmul_bindings
//!import weight
//!import dot
//!import store_quad

// One plane of 32 columns of x.
struct Block { a: vec4<u32>, b: vec4<u32>, c: vec4<u32>, d: vec4<u32> }
struct Weights { a: Pairs, b: Pairs, c: Pairs, d: Pairs }

fn plane_sum(w: Weights, x: Block, f: Affine) -> vec4<i32> {
    return dot_step(w.a, x.a, f) + dot_step(w.b, x.b, f) + dot_step(w.c, x.c, f)
        + dot_step(w.d, x.d, f);
}

fn add(f: Affine, i: vec4<i32>, scale: vec2<f32>, sum: vec4<f32>) -> vec4<f32> {
    return fma(block_value(f, i, scale.y), vec4(scale.x), sum);
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
    let blocks = p.cols / 32u;
    let row = p.row_first + group.y * 8u;
    // Rows past the end repeat the last one and are not stored.
    let at = min(row + lane, p.rows - 1u) * blocks;
    var f0 = vec4(0.0);
    var f1 = vec4(0.0);
    var f2 = vec4(0.0);
    var f3 = vec4(0.0);
    var f4 = vec4(0.0);
    var f5 = vec4(0.0);
    var f6 = vec4(0.0);
    var f7 = vec4(0.0);
    for (var b = 0u; b < blocks; b++) {
        let f = affine(tile, b, quad);
        let high = extra(tile, b, quad);
        let w = Weights(pairs(words(tile, b, 0u, quad, high)), pairs(words(tile, b, 1u, quad, high)),
                        pairs(words(tile, b, 2u, quad, high)), pairs(words(tile, b, 3u, quad, high)));
        let s = x_scales[at + b];
        var i0 = vec4(0);
        var i1 = vec4(0);
        var i2 = vec4(0);
        var i3 = vec4(0);
        var i4 = vec4(0);
        var i5 = vec4(0);
        var i6 = vec4(0);
        var i7 = vec4(0);
        for (var plane = 0u; plane < 2u; plane++) {
            let start = ((at + b) * 2u + plane) * 4u;
            let v = Block(x[start], x[start + 1u], x[start + 2u], x[start + 3u]);
            let x0 = Block(subgroupBroadcast(v.a, 0u), subgroupBroadcast(v.b, 0u),
                           subgroupBroadcast(v.c, 0u), subgroupBroadcast(v.d, 0u));
            i0 = i0 * 128 + plane_sum(w, x0, f);
            let x1 = Block(subgroupBroadcast(v.a, 1u), subgroupBroadcast(v.b, 1u),
                           subgroupBroadcast(v.c, 1u), subgroupBroadcast(v.d, 1u));
            i1 = i1 * 128 + plane_sum(w, x1, f);
            let x2 = Block(subgroupBroadcast(v.a, 2u), subgroupBroadcast(v.b, 2u),
                           subgroupBroadcast(v.c, 2u), subgroupBroadcast(v.d, 2u));
            i2 = i2 * 128 + plane_sum(w, x2, f);
            let x3 = Block(subgroupBroadcast(v.a, 3u), subgroupBroadcast(v.b, 3u),
                           subgroupBroadcast(v.c, 3u), subgroupBroadcast(v.d, 3u));
            i3 = i3 * 128 + plane_sum(w, x3, f);
            let x4 = Block(subgroupBroadcast(v.a, 4u), subgroupBroadcast(v.b, 4u),
                           subgroupBroadcast(v.c, 4u), subgroupBroadcast(v.d, 4u));
            i4 = i4 * 128 + plane_sum(w, x4, f);
            let x5 = Block(subgroupBroadcast(v.a, 5u), subgroupBroadcast(v.b, 5u),
                           subgroupBroadcast(v.c, 5u), subgroupBroadcast(v.d, 5u));
            i5 = i5 * 128 + plane_sum(w, x5, f);
            let x6 = Block(subgroupBroadcast(v.a, 6u), subgroupBroadcast(v.b, 6u),
                           subgroupBroadcast(v.c, 6u), subgroupBroadcast(v.d, 6u));
            i6 = i6 * 128 + plane_sum(w, x6, f);
            let x7 = Block(subgroupBroadcast(v.a, 7u), subgroupBroadcast(v.b, 7u),
                           subgroupBroadcast(v.c, 7u), subgroupBroadcast(v.d, 7u));
            i7 = i7 * 128 + plane_sum(w, x7, f);
        }
        f0 = add(f, i0, subgroupBroadcast(s, 0u), f0);
        f1 = add(f, i1, subgroupBroadcast(s, 1u), f1);
        f2 = add(f, i2, subgroupBroadcast(s, 2u), f2);
        f3 = add(f, i3, subgroupBroadcast(s, 3u), f3);
        f4 = add(f, i4, subgroupBroadcast(s, 4u), f4);
        f5 = add(f, i5, subgroupBroadcast(s, 5u), f5);
        f6 = add(f, i6, subgroupBroadcast(s, 6u), f6);
        f7 = add(f, i7, subgroupBroadcast(s, 7u), f7);
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
