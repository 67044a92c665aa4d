// matmul_tiles with the matrix units of a GPU: 64 outputs x 64 rows per workgroup of four groups of 32
// invocations, each of which has 16 outputs. Quants and planes of x are small integers, which 16-bit floats hold
// exactly and whose sums 32-bit floats hold exactly, so the bits are those of matmul_tiles.
//!import fragment
//!import matmul_params
//!import matmul_bindings
//!import weight
//!import bytes
//!import store_quad
//!import segment

// Of a row of 32 columns in workgroup memory, padded so that rows start in different banks.
const STRIDE = 40u;
// Sums of more than 24 bits are made in parts: of quants of eight bits, each plane of x by itself.
const WIDE = CENTRE == 128u;
// Columns that are multiplied at once: a block, or half of one.
const COLUMNS = select(32u, 16u, PARTED);
// Rows of quads that an invocation has: two in each tile of 16 rows.
const OWN = 8u;

alias Sums = array<vec4<f32>, OWN>;

// [output][column].
var<workgroup> quants: array<Element, 64u * STRIDE>;
// [row][column]: 128 times the high plane of x, and the low one.
var<workgroup> high: array<Element, 64u * STRIDE>;
var<workgroup> low: array<Element, 64u * STRIDE>;
// [group][row][output].
var<workgroup> products: array<f32, 1024>;
var<workgroup> factors: array<Affine, 16>;
var<workgroup> row_scales: array<vec2<f32>, 64>;
//!import multiply

fn fetch_quants(part: u32, b: u32, out_start: u32) {
    let quads = (p.slab_outs + 3u) / 4u;
    let index = min(out_start / 4u + part % 16u, quads - 1u);
    let tile = index / 4u * p.tile;
    let j = part / 16u;
    let w = words(tile, b, j, index % 4u, extra(tile, b, index % 4u));
    let first = centred(w.a);
    let second = centred(w.b);
    for (var o = 0u; o < 4u; o++) {
        let at = (part % 16u * 4u + o) * STRIDE + 4u * j;
        let a = unpack4xI8(first[o]);
        let c = unpack4xI8(second[o]);
        for (var k = 0u; k < 4u; k++) {
            quants[at + k] = Element(a[k]);
            quants[at + 16u + k] = Element(c[k]);
        }
    }
    if j == 0u { factors[part] = affine(tile, b, index % 4u); }
}

fn fetch_row(part: u32, row: u32) {
    for (var v = 0u; v < 8u; v++) {
        let word = x[row * 4u + v / 4u][v % 4u];
        let rest = x[row * 4u + 2u + v / 4u][v % 4u];
        let a = unpack4xI8(word);
        let c = unpack4xI8(rest);
        for (var k = 0u; k < 4u; k++) {
            high[part * STRIDE + 4u * v + k] = Element(a[k] * 128);
            low[part * STRIDE + 4u * v + k] = Element(c[k]);
        }
    }
    row_scales[part] = x_scales[row];
}

// Adds a part of a block's integer sums of this invocation's two rows of a tile, times `factor`.
fn gather(local: u32, factor: vec4<i32>, sums: array<vec4<i32>, 2>) -> array<vec4<i32>, 2> {
    var out = sums;
    for (var h = 0u; h < 2u; h++) {
        let at = local / 32u * 256u + (local % 32u / 4u + 8u * h) * 16u + local % 4u * 4u;
        let v = vec4(products[at], products[at + 1u], products[at + 2u], products[at + 3u]);
        out[h] += factor * vec4<i32>(v);
    }
    return out;
}

fn block_sums(local: u32, tile: u32, f: Affine) -> array<vec4<i32>, 2> {
    var sums = array<vec4<i32>, 2>();
    let rows_at = tile * 16u * STRIDE;
    let outs_at = local / 32u * 16u * STRIDE;
    let to = local / 32u * 256u;
    // Half blocks may have factors of their own; planes are parted where both together are too wide.
    for (var half = 0u; half < select(1u, 2u, PARTED); half++) {
        let factor = select(f.first, f.second, half == 1u);
        let at = vec3(rows_at + 16u * half, outs_at + 16u * half, to);
        if WIDE {
            multiply_high(local, at);
            workgroupBarrier();
            sums = gather(local, factor, sums);
            workgroupBarrier();
            multiply_low(local, at);
        } else {
            multiply_both(local, at);
        }
        workgroupBarrier();
        sums = gather(local, factor, sums);
        workgroupBarrier();
    }
    return sums;
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let blocks = p.cols / 32u;
    let out_start = group.x * 64u;
    let row_start = p.row_first + group.y * 64u;
    let quad = local / 32u * 4u + local % 4u;
    var part = Sums();
    var total = Sums();
    for (var b = 0u; b < blocks; b++) {
        workgroupBarrier();
        if local < 64u {
            fetch_quants(local, b, out_start);
        } else {
            fetch_row(local - 64u, min(row_start + local - 64u, p.rows - 1u) * blocks + b);
        }
        workgroupBarrier();
        let f = factors[quad];
        for (var tile = 0u; tile < 4u; tile++) {
            let sums = block_sums(local, tile, f);
            for (var h = 0u; h < 2u; h++) {
                let s = row_scales[tile * 16u + local % 32u / 4u + 8u * h];
                let at = 2u * tile + h;
                part[at] = fma(block_value(f, vec4<f32>(sums[h]), s.y), vec4(s.x), part[at]);
            }
        }
        if b % SEGMENT == SEGMENT - 1u || b == blocks - 1u {
            for (var i = 0u; i < OWN; i++) { total[i] += part[i]; }
            part = Sums();
        }
    }
    for (var i = 0u; i < OWN; i++) {
        let row = row_start + i / 2u * 16u + local % 32u / 4u + 8u * (i % 2u);
        store_quad(row, out_start + quad * 4u, total[i]);
    }
}
