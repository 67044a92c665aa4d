// Sums of a block's products, in floats, which software adapters multiply faster than integers. Quants of
// x have 15 bits, so that sums over weights of up to five bits are exact; others round, in an order that
// all kernels share: four columns of the first half of a block, four of the second, and so on.

// Four columns of four outputs.
struct Four { a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32> }
// The j-th four columns of each half of a block.
struct Step { first: Four, second: Four }

// Four columns of x: see pack_halves.
fn first_half(v: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(bitcast<vec4<i32>>(v << vec4(16u)) >> vec4(16u));
}

fn second_half(v: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(bitcast<vec4<i32>>(v) >> vec4(16u));
}

fn four(w: vec4<u32>, scale: vec4<f32>) -> Four {
    let mask = vec4(255u);
    let centre = vec4(f32(CENTRE));
    return Four((vec4<f32>(w & mask) - centre) * scale,
                (vec4<f32>((w >> vec4(8u)) & mask) - centre) * scale,
                (vec4<f32>((w >> vec4(16u)) & mask) - centre) * scale,
                (vec4<f32>(w >> vec4(24u)) - centre) * scale);
}

fn step(tile: u32, b: u32, j: u32, quad: u32, high: Extra, f: Affine) -> Step {
    let w = words(tile, b, j, quad, high);
    return Step(four(w.a, vec4<f32>(f.first)), four(w.b, vec4<f32>(f.second)));
}

fn add_four(w: Four, x: vec4<f32>, sum: vec4<f32>) -> vec4<f32> {
    return fma(w.d, vec4(x.w), fma(w.c, vec4(x.z), fma(w.b, vec4(x.y), fma(w.a, vec4(x.x), sum))));
}

fn add_step(w: Step, first: vec4<f32>, second: vec4<f32>, sum: vec4<f32>) -> vec4<f32> {
    return add_four(w.second, second, add_four(w.first, first, sum));
}

// The block's sum is scaled and added to those before.
fn add_block(f: Affine, block: vec4<f32>, s: vec2<f32>, sum: vec4<f32>) -> vec4<f32> {
    return fma(block_value(f, block, s.y), vec4(s.x), sum);
}
