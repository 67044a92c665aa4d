// Products of 16 rows and 16 outputs over COLUMNS columns, of one plane of x or both, by a group of 32 invocations.
// `at`: first element of the rows and of the outputs, and of the results `[row][output]`.
alias Sum = coop_mat16x16<f32, C>;

fn add_high(at: vec3<u32>, k: u32, sum: Sum) -> Sum {
    let w = coopLoad<coop_mat16x16<f16, B>>(&quants[at.y + k], STRIDE);
    return coopMultiplyAdd(coopLoadT<coop_mat16x16<f16, A>>(&high[at.x + k], STRIDE), w, sum);
}

fn add_low(at: vec3<u32>, k: u32, sum: Sum) -> Sum {
    let w = coopLoad<coop_mat16x16<f16, B>>(&quants[at.y + k], STRIDE);
    return coopMultiplyAdd(coopLoadT<coop_mat16x16<f16, A>>(&low[at.x + k], STRIDE), w, sum);
}

fn multiply_high(local: u32, at: vec3<u32>) {
    var sum = Sum();
    for (var k = 0u; k < COLUMNS; k += 16u) { sum = add_high(at, k, sum); }
    coopStoreT(sum, &products[at.z], 16u);
}

fn multiply_low(local: u32, at: vec3<u32>) {
    var sum = Sum();
    for (var k = 0u; k < COLUMNS; k += 16u) { sum = add_low(at, k, sum); }
    coopStoreT(sum, &products[at.z], 16u);
}

fn multiply_both(local: u32, at: vec3<u32>) {
    var sum = Sum();
    for (var k = 0u; k < COLUMNS; k += 16u) { sum = add_low(at, k, add_high(at, k, sum)); }
    coopStoreT(sum, &products[at.z], 16u);
}
