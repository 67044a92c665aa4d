// What multiply_units does, without matrix units.
fn multiply_planes(local: u32, at: vec3<u32>, planes: vec2<f32>) {
    for (var i = local % 32u; i < 256u; i += 32u) {
        let row = at.x + i / 16u * STRIDE;
        let output = at.y + i % 16u * STRIDE;
        var sum = 0.0;
        for (var k = 0u; k < COLUMNS; k++) {
            sum += (planes.x * high[row + k] + planes.y * low[row + k]) * quants[output + k];
        }
        products[at.z + i] = sum;
    }
}

fn multiply_high(local: u32, at: vec3<u32>) {
    multiply_planes(local, at, vec2(1.0, 0.0));
}

fn multiply_low(local: u32, at: vec3<u32>) {
    multiply_planes(local, at, vec2(0.0, 1.0));
}

fn multiply_both(local: u32, at: vec3<u32>) {
    multiply_planes(local, at, vec2(1.0, 1.0));
}
