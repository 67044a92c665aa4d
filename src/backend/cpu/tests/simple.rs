//! Norm, RoPE, gates, sums, gathers: within a few roundings of the reference, the same bits on every
//! path.

use super::{Random, bits, devices, nmse, put, take};
use crate::backend::{Device, reference::ReferenceDevice};
use crate::kernel::{Activation, Buffer, Call, RopeStyle};

/// A call on the operands and the index buffer, and where its result is.
type Build<'a> = dyn Fn(&[Buffer], Buffer) -> (Call, Buffer) + 'a;

/// Runs what `build` makes of fresh buffers and returns the buffer it names.
fn run(
    device: &mut dyn Device,
    operands: &[Vec<f32>],
    index: &[u32],
    build: &Build,
    count: usize,
) -> Vec<f32> {
    let buffers: Vec<Buffer> = operands.iter().map(|values| put(device, values)).collect();
    let index = put(device, index);
    let (call, out) = build(&buffers, index);
    device.run(&[call]).unwrap();
    take(device, out, count)
}

fn compare(what: &str, operands: &[Vec<f32>], index: &[u32], build: &Build, count: usize) {
    let want = run(&mut ReferenceDevice::new(), operands, index, build, count);
    let mut first: Option<Vec<u32>> = None;
    for (name, mut device) in devices() {
        let got = run(&mut device, operands, index, build, count);
        let error = nmse(&got, &want);
        assert!(error < 1e-12, "{what}, {name}: {error}");
        assert!(*first.get_or_insert_with(|| bits(&got)) == bits(&got), "{what}: bits of {name}");
    }
}

#[test]
fn norm_in_place_and_not() {
    let mut random = Random(1);
    for (rows, cols) in [(1, 576), (5, 100), (9, 1536), (3, 7)] {
        let operands = [random.values(rows * cols), random.values(cols), vec![0.0; rows * cols]];
        for out in [0, 2] {
            let build = move |b: &[Buffer], _| {
                let (x, weight, out) = (b[0], b[1], b[out]);
                (Call::RmsNorm { x, weight, out, rows, cols, eps: 1e-5 }, out)
            };
            compare("norm", &operands, &[], &build, rows * cols);
        }
    }
}

#[test]
fn rope_of_both_styles() {
    let mut random = Random(2);
    for (rows, heads, head_dim, pairs) in [(3, 9, 64, 32), (1, 4, 256, 128), (7, 2, 96, 24)] {
        let angles: Vec<f32> =
            (0..rows * pairs).map(|_| random.value()).flat_map(|a| [a.cos(), a.sin()]).collect();
        let count = rows * heads * head_dim;
        let operands = [random.values(count), angles];
        for style in [RopeStyle::Adjacent, RopeStyle::Halves] {
            let build = move |b: &[Buffer], _| {
                let (x, angles) = (b[0], b[1]);
                (Call::Rope { x, angles, rows, heads, head_dim, pairs, style }, x)
            };
            compare("rope", &operands, &[], &build, count);
        }
    }
}

#[test]
fn gates_and_sums() {
    let mut random = Random(3);
    for count in [1, 16, 576, 10_007] {
        let mut gate = random.values(count);
        gate.iter_mut().for_each(|v| *v *= 10.0);
        let operands = [gate, random.values(count), vec![0.0; count]];
        for activation in [Activation::Silu, Activation::GeluTanh] {
            for out in [0, 2] {
                let build = move |b: &[Buffer], _| {
                    let (gate, up, out) = (b[0], b[1], b[out]);
                    (Call::Gate { gate, up, out, count, activation }, out)
                };
                compare("gate", &operands, &[], &build, count);
            }
        }
        let build = move |b: &[Buffer], _| (Call::Add { x: b[0], y: b[1], count }, b[0]);
        compare("add", &operands, &[], &build, count);
    }
}

/// Far from zero a gate passes its input or nothing, and never a NaN.
#[test]
fn gates_saturate() {
    for (_, mut device) in devices() {
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let gate = put(&mut device, &[-3e4f32, -1e3, 1e3, 3e4]);
            let up = put(&mut device, &[1.0f32; 4]);
            device.run(&[Call::Gate { gate, up, out: gate, count: 4, activation }]).unwrap();
            let got: Vec<f32> = take(&mut device, gate, 4);
            assert!(got[0].abs() < 1e-30 && got[1].abs() < 1e-30, "{got:?}");
            assert_eq!(got[2..], [1e3, 3e4]);
        }
    }
}

#[test]
fn gather_copies_rows() {
    let mut random = Random(4);
    let (cols, index) = (33, [5u32, 0, 5, 2]);
    let operands = [random.values(6 * cols), vec![0.0; index.len() * cols]];
    let build = move |b: &[Buffer], index| {
        (Call::Gather { x: b[0], index, out: b[1], first: 0, rows: 4, cols }, b[1])
    };
    compare("gather", &operands, &index, &build, index.len() * cols);
}

#[test]
#[should_panic(expected = "output of a gate")]
fn a_buffer_too_small_is_refused() {
    let (_, mut device) = devices().remove(0);
    let (gate, up) = (put(&mut device, &[0.0f32; 8]), put(&mut device, &[0.0f32; 8]));
    let out = put(&mut device, &[0.0f32; 7]);
    let activation = Activation::Silu;
    let _ = device.run(&[Call::Gate { gate, up, out, count: 8, activation }]);
}
