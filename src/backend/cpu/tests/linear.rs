//! Linear layers.

use super::{Random, bits, devices, nmse, put, take};
use crate::backend::{Device, reference::ReferenceDevice};
use crate::kernel::{Call, Projection};
use crate::quant::{DType, quantize_row};
use std::sync::Arc;

struct Layer {
    dtype: DType,
    rows: usize,
    bytes: Vec<u8>,
    bias: Option<Vec<f32>>,
}

fn layer(dtype: DType, rows: usize, cols: usize, bias: bool, random: &mut Random) -> Layer {
    let mut bytes = Vec::new();
    (0..rows).for_each(|_| quantize_row(dtype, &random.values(cols), &mut bytes));
    let bias = bias.then(|| random.values(rows));
    Layer { dtype, rows, bytes, bias }
}

/// Outputs of all layers over `m` rows of `x`, one call.
fn run(device: &mut dyn Device, layers: &[Layer], x: &[f32], m: usize) -> Vec<Vec<f32>> {
    let cols = x.len() / m;
    let projections: Arc<[Projection]> = layers
        .iter()
        .map(|layer| {
            let weight =
                device.load(layer.dtype, layer.rows, cols, &layer.bytes, "weight").unwrap();
            let bias = layer.bias.as_ref().map(|bias| put(device, bias));
            Projection::whole(weight, bias, device.alloc(m * layer.rows * 4, "out").unwrap())
        })
        .collect();
    let x = put(device, x);
    device.run(&[Call::Linear { x, rows: m, cols, projections: projections.clone() }]).unwrap();
    let outputs = projections.iter().map(|p| take(device, p.out, m * p.weight.rows)).collect();
    for p in projections.iter() {
        device.unload(p.weight);
        device.free(p.out);
        p.bias.into_iter().for_each(|bias| device.free(bias));
    }
    device.free(x);
    outputs
}

/// Every type on every path equals the reference: quantized layers to the rounding of x to 8 bits
/// (outliers of 8 amid values below 1 make the step coarse), float layers to the order of summation.
#[test]
fn layers_match_the_reference() {
    let mut random = Random(1);
    let mut reference = ReferenceDevice::new();
    let mut devices = devices();
    for dtype in DType::ALL {
        for (rows, cols, m) in [(5, 256, 3), (37, 768, 9), (16, 1280, 1)] {
            let layers = [layer(dtype, rows, cols, rows == 37, &mut random)];
            let x = random.values(m * cols);
            let want = run(&mut reference, &layers, &x, m);
            let most = if dtype.is_float() { 1e-12 } else { 5e-4 };
            for (name, device) in &mut devices {
                let got = run(device, &layers, &x, m);
                let error = nmse(&got[0], &want[0]);
                assert!(error < most, "{dtype} {rows}x{cols}, {m} rows, {name}: {error}");
            }
        }
    }
}

/// Rounding x is the only inexactness: with x on the grid of 8 bits the result is exact to f32.
#[test]
fn layers_are_exact_on_rounded_inputs() {
    let mut random = Random(2);
    for dtype in DType::ALL.into_iter().filter(|dtype| !dtype.is_float()) {
        let layers = [layer(dtype, 20, 512, false, &mut random)];
        let mut x: Vec<f32> = (0..3 * 512).map(|_| random.below(255) as f32 - 127.0).collect();
        x.chunks_mut(32).for_each(|block| block[5] = 127.0);
        let want = run(&mut ReferenceDevice::new(), &layers, &x, 3);
        for (name, mut device) in devices() {
            let error = nmse(&run(&mut device, &layers, &x, 3)[0], &want[0]);
            assert!(error < 1e-12, "{dtype}, {name}: {error}");
        }
    }
}

/// The largest products of all add up without overflow, however narrow the sums of a path are.
#[test]
fn the_largest_quants_do_not_overflow() {
    let mut random = Random(7);
    for dtype in DType::ALL.into_iter().filter(|dtype| !dtype.is_float()) {
        // Quants and their high bits within a block.
        let quants = match dtype {
            DType::Q4_0 => 2..18,
            DType::Q4_1 => 4..20,
            DType::Q5_0 => 2..22,
            DType::Q5_1 => 4..24,
            DType::Q8_0 => 2..34,
            DType::Q4K => 16..144,
            DType::Q5K => 16..176,
            DType::Q6K => 0..192,
            _ => unreachable!("{dtype}"),
        };
        let (cols, m) = (512, 9);
        let largest: &[u8] = if dtype == DType::Q8_0 { &[0x80, 0x7F] } else { &[0xFF, 0] };
        for fill in largest {
            let mut layers = [layer(dtype, 16, cols, false, &mut random)];
            for block in layers[0].bytes.chunks_mut(dtype.block_bytes()) {
                block[quants.clone()].fill(*fill);
            }
            let x: Vec<f32> =
                (0..m * cols).map(|i| if i / cols % 2 == 0 { 127.0 } else { -127.0 }).collect();
            let want = run(&mut ReferenceDevice::new(), &layers, &x, m);
            for (name, mut device) in devices() {
                let error = nmse(&run(&mut device, &layers, &x, m)[0], &want[0]);
                assert!(error < 1e-12, "{dtype}, quants of {fill:#x}, {name}: {error}");
            }
        }
    }
}

/// The bits of a row do not depend on path, threads, or how many rows share the call.
#[test]
fn rows_have_the_same_bits_in_any_company() {
    let mut random = Random(3);
    let mut devices = devices();
    for dtype in DType::ALL {
        let (cols, m) = (768, 40);
        let layers = [layer(dtype, 37, cols, true, &mut random)];
        let x = random.values(m * cols);
        let all = run(&mut devices[0].1, &layers, &x, m).remove(0);
        for (name, device) in &mut devices {
            assert_eq!(bits(&run(device, &layers, &x, m)[0]), bits(&all), "{dtype}, {name}");
        }
        let device = &mut devices[0].1;
        for count in 1..m {
            let part = run(device, &layers, &x[..count * cols], count).remove(0);
            assert_eq!(bits(&part), bits(&all[..count * 37]), "{dtype}, {count} rows");
            let rest = run(device, &layers, &x[count * cols..], m - count).remove(0);
            assert_eq!(bits(&rest), bits(&all[count * 37..]), "{dtype}, rows from {count}");
        }
    }
}

/// More rows than one block of the driver, and projections of different types and sizes.
#[test]
fn projections_share_their_input() {
    let mut random = Random(4);
    let (cols, m) = (512, 300);
    let layers: Vec<Layer> = [
        (DType::Q4K, 33, true),
        (DType::Q6K, 16, false),
        (DType::F16, 40, true),
        (DType::Q8_0, 1, false),
        (DType::Q5_0, 17, false),
        (DType::Q4_0, 50, false),
    ]
    .into_iter()
    .map(|(dtype, rows, bias)| layer(dtype, rows, cols, bias, &mut random))
    .collect();
    let x = random.values(m * cols);
    let want = run(&mut ReferenceDevice::new(), &layers, &x, m);
    for (name, mut device) in devices() {
        let got = run(&mut device, &layers, &x, m);
        for ((layer, got), want) in layers.iter().zip(&got).zip(&want) {
            let error = nmse(got, want);
            assert!(error < 5e-4, "{}, {name}: {error}", layer.dtype);
        }
        let tail = run(&mut device, &layers, &x[299 * cols..], 1);
        for (got, tail) in got.iter().zip(&tail) {
            assert_eq!(bits(&got[got.len() - tail.len()..]), bits(tail), "{name}");
        }
    }
}

/// Odd column counts exist for floats alone; the last pair is half empty. With few rows and with more.
#[test]
fn odd_columns_of_floats() {
    let mut random = Random(5);
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let layers = [layer(dtype, 18, 131, false, &mut random)];
        for m in [2, 17] {
            let x = random.values(m * 131);
            let want = run(&mut ReferenceDevice::new(), &layers, &x, m);
            for (name, mut device) in devices() {
                let error = nmse(&run(&mut device, &layers, &x, m)[0], &want[0]);
                assert!(error < 1e-12, "{m} rows of {dtype}, {name}: {error}");
            }
        }
    }
}

/// What is not a number stays so in its own row, and zeros give the bias.
#[test]
fn strange_inputs_stay_in_their_row() {
    let mut random = Random(6);
    let layers = [layer(DType::Q4_0, 16, 64, true, &mut random)];
    let mut x = vec![0.0; 3 * 64];
    (x[64], x[130]) = (f32::NAN, f32::INFINITY);
    for (name, mut device) in devices() {
        let got = run(&mut device, &layers, &x, 3).remove(0);
        assert_eq!(bits(&got[..16]), bits(layers[0].bias.as_ref().unwrap()), "{name}");
        assert!(got[16..].iter().all(|v| !v.is_finite()), "{name}: {got:?}");
    }
}
