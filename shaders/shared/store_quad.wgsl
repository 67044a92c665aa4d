// Stores four outputs of one row; `at` counts outputs from the start of the slab.
fn store_quad(row: u32, at: u32, sum: vec4<f32>) {
    if row >= p.rows { return; }
    let o = p.out_first + at;
    var y = sum;
    if p.bias == 1u {
        let last = p.outs - 1u;
        y += vec4(bias[min(o, last)], bias[min(o + 1u, last)], bias[min(o + 2u, last)],
                  bias[min(o + 3u, last)]);
    }
    let to = row * p.outs + o;
    if at < p.slab_outs { out[to] = y.x; }
    if at + 1u < p.slab_outs { out[to + 1u] = y.y; }
    if at + 2u < p.slab_outs { out[to + 2u] = y.z; }
    if at + 3u < p.slab_outs { out[to + 3u] = y.w; }
}
