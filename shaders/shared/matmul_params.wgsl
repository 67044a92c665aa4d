// Offsets within a tile count vectors of 16 bytes. Host twin: params::Matmul.
struct Params {
    cols: u32,
    rows: u32,
    row_first: u32,
    outs: u32,
    out_first: u32,
    slab_outs: u32,
    tile: u32,
    high: u32,
    scales: u32,
    supers: u32,
    bias: u32,
}
var<immediate> p: Params;
