//! Every kernel of every device against the reference device: one body per call.

use crate::support;
use forebay::backend::cpu::CpuDevice;
use forebay::backend::gpu::{Family, GpuDevice, Options, Selector, Units};
use forebay::backend::reference::ReferenceDevice;
use forebay::backend::{Device, DeviceKind};
use forebay::kernel::{
    Activation, AttentionRow, Buffer, CacheLayout, Call, KeyBias, KvFormat, PAGE_LEN, Projection,
    RopeStyle,
};
use forebay::quant::{DType, IO_ALIGN, Packing, pack, quantize_row};

/// Numbers in -1..1 from a seed.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 40) as f32 / (1 << 23) as f32) - 1.0
    }

    fn many(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }
}

/// The devices under test with a name each: the cpu, and the adapter with each family of kernels.
fn devices() -> Vec<(String, Box<dyn Device>)> {
    let mut devices: Vec<(String, Box<dyn Device>)> =
        vec![("cpu".into(), Box::new(CpuDevice::new(None).unwrap()))];
    let Some(adapter) = support::adapter() else { return devices };
    let mut families = vec![Family::Tiles];
    if adapter.kind == DeviceKind::SoftwareGpu && adapter.subgroup.0 >= 8 {
        families.push(Family::Lanes);
    }
    let plain = families.into_iter().map(|family| (family, None));
    for (family, units) in plain.chain([(Family::Tiles, Some(Units::Loops))]) {
        // Small slabs, so that most matrices have several.
        let options =
            Options { family: Some(family), slab_bytes_max: Some(20_000), units, store: None };
        let device = GpuDevice::open_with(&Selector::Index(adapter.index), options).unwrap();
        devices.push((format!("{}, {family:?} {units:?}", adapter.name), Box::new(device)));
    }
    devices
}

/// A buffer holding `words`.
fn put<T: bytemuck::Pod>(device: &mut dyn Device, words: &[T]) -> Buffer {
    let bytes = bytemuck::cast_slice(words);
    let buffer = device.alloc(bytes.len().max(4), "test").unwrap();
    device.write(buffer, 0, bytes).unwrap();
    buffer
}

/// The first `count` floats of a buffer.
fn get(device: &mut dyn Device, buffer: Buffer, count: usize) -> Vec<f32> {
    let mut out = vec![0.0; count];
    device.read(buffer, 0, bytemuck::cast_slice_mut(&mut out)).unwrap();
    out
}

/// Fails unless `got` is `want` but for a mean square error of `nmse` of the mean square of `want`.
fn close(what: &str, got: &[f32], want: &[f32], nmse: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    assert!(got.iter().all(|v| v.is_finite()), "{what}: not finite: {got:?}");
    let square = |v: f64| v * v;
    let error: f64 = got.iter().zip(want).map(|(g, w)| square(f64::from(g - w))).sum();
    let power: f64 = want.iter().map(|w| square(f64::from(*w))).sum();
    assert!(error <= nmse * power, "{what}: error {:.2e} of the power", error / power);
    let most = want.iter().fold(0f32, |m, w| m.max(w.abs()));
    let worst = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max);
    // A single element may be off by a few times the mean error, not by more.
    let bound = 20.0 * nmse.sqrt() as f32 * most;
    assert!(worst <= bound, "{what}: an element is off by {worst}, allowed {bound}");
}

fn same_bits(what: &str, a: &[f32], b: &[f32]) {
    let differs = a.iter().zip(b).position(|(a, b)| a.to_bits() != b.to_bits());
    assert!(a.len() == b.len() && differs.is_none(), "{what}: element {differs:?} differs");
}

/// Bytes of a random matrix.
fn matrix(noise: &mut Noise, dtype: DType, rows: usize, cols: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..rows {
        quantize_row(dtype, &noise.many(cols), &mut bytes);
    }
    bytes
}

/// `x` times the matrix on one device.
fn product(
    device: &mut dyn Device,
    (dtype, outs, cols): (DType, usize, usize),
    bytes: &[u8],
    bias: Option<&[f32]>,
    x: &[f32],
) -> Vec<f32> {
    let rows = x.len() / cols;
    let weight = device.load(dtype, outs, cols, bytes, "weight").unwrap();
    let (input, out) = (put(device, x), put(device, &vec![7f32; rows * outs]));
    let bias = bias.map(|b| put(device, b));
    let projections = [Projection::whole(weight, bias, out)].into();
    device.run(&[Call::Linear { x: input, rows, cols, projections }]).unwrap();
    let y = get(device, out, rows * outs);
    device.unload(weight);
    device.free(input);
    device.free(out);
    bias.into_iter().for_each(|b| device.free(b));
    y
}

/// Share of the power that rounding x may cost: to 8 bits on cpu, to 15 on gpu; float weights lose f32
/// rounding only.
fn linear_nmse(dtype: DType, device: &str) -> f64 {
    match (dtype.is_float(), device) {
        (true, _) => 1e-11,
        (false, "cpu") => 1e-4,
        (false, _) => 1e-8,
    }
}

#[test]
fn linear_layers_match_the_reference() {
    let mut reference = ReferenceDevice::new();
    for (name, mut device) in devices() {
        let held = device.memory().bytes;
        for dtype in DType::ALL {
            let mut noise = Noise(dtype.gguf_id().into());
            let odd_cols = if dtype.is_float() { 77 } else { 3 * dtype.block_len() };
            for (outs, cols, rows) in
                [(16, 256, 1), (37, odd_cols, 3), (200, 1024, 2), (83, 512, 70), (129, odd_cols, 9)]
            {
                let bytes = matrix(&mut noise, dtype, outs, cols);
                let x = noise.many(rows * cols);
                let bias = noise.many(outs);
                let bias = (rows % 2 == 1).then_some(&bias[..]);
                let shape = (dtype, outs, cols);
                let got = product(&mut *device, shape, &bytes, bias, &x);
                let want = product(&mut reference, shape, &bytes, bias, &x);
                let what = format!("{name}: {dtype} {outs}x{cols}, {rows} rows");
                close(&what, &got, &want, linear_nmse(dtype, &name));
            }
        }
        let scratch = device.memory().bytes - held;
        assert!(scratch <= 70 * 1024 * 4, "{name}: {scratch} bytes are still held");
    }
}

#[test]
fn a_row_of_a_linear_layer_has_the_same_bits_in_any_company() {
    for (name, mut device) in devices() {
        for dtype in DType::ALL {
            let mut noise = Noise(u64::from(dtype.gguf_id()) + 100);
            let (outs, cols) = (50, if dtype.is_float() { 333 } else { 1280 });
            let bytes = matrix(&mut noise, dtype, outs, cols);
            let x = noise.many(37 * cols);
            let all = product(&mut *device, (dtype, outs, cols), &bytes, None, &x);
            for (first, rows) in [(0, 1), (36, 1), (5, 2), (7, 4), (20, 9), (2, 33)] {
                let part = &x[first * cols..(first + rows) * cols];
                let alone = product(&mut *device, (dtype, outs, cols), &bytes, None, part);
                let what = format!("{name}: {dtype}, rows {first}..{}", first + rows);
                same_bits(&what, &alone, &all[first * outs..(first + rows) * outs]);
            }
        }
    }
}

#[test]
fn projections_share_their_input() {
    let mut noise = Noise(3);
    let (rows, cols) = (5, 256);
    let kinds = [(DType::Q4_1, 64), (DType::F16, 20), (DType::Q6K, 33)];
    let bytes: Vec<_> = kinds.iter().map(|&(t, outs)| matrix(&mut noise, t, outs, cols)).collect();
    let x = noise.many(rows * cols);
    let all = |device: &mut dyn Device| -> Vec<Vec<f32>> {
        let input = put(device, &x);
        let mut projections = Vec::new();
        for (&(dtype, outs), bytes) in kinds.iter().zip(&bytes) {
            let weight = device.load(dtype, outs, cols, bytes, "w").unwrap();
            let out = device.alloc(rows * outs * 4, "out").unwrap();
            projections.push(Projection::whole(weight, None, out));
        }
        let outs: Vec<_> = projections.iter().map(|p| (p.out, p.weight.rows)).collect();
        device
            .run(&[Call::Linear { x: input, rows, cols, projections: projections.into() }])
            .unwrap();
        outs.into_iter().map(|(out, width)| get(device, out, rows * width)).collect()
    };
    let want = all(&mut ReferenceDevice::new());
    for (name, mut device) in devices() {
        for (got, want) in all(&mut *device).iter().zip(&want) {
            close(&name, got, want, 1e-4);
        }
    }
}

/// A matrix cut into views of packed segments, and slabs that were loaded, gives the bits of the whole.
#[test]
fn slabs_give_the_bits_of_the_whole_matrix() {
    let mut noise = Noise(17);
    let (rows, cols, outs, cut) = (9, 512, 75, 32);
    for dtype in DType::ALL {
        let bytes = matrix(&mut noise, dtype, outs, cols);
        let (x, bias) = (noise.many(rows * cols), noise.many(outs));
        let tail = &bytes[cut * dtype.row_bytes(cols)..];
        let packing = Packing::new(dtype, outs - cut, cols);
        let mut packed = vec![0; packing.bytes()];
        pack(&packing, tail, &mut packed);
        let mut all = devices();
        all.push(("reference".into(), Box::new(ReferenceDevice::new())));
        for (name, mut device) in all {
            let want = product(&mut *device, (dtype, outs, cols), &bytes, Some(&bias), &x);
            let head = &bytes[..cut * dtype.row_bytes(cols)];
            let first = device.load(dtype, cut, cols, head, "head").unwrap();
            let ring = device.alloc(IO_ALIGN + packed.len(), "ring").unwrap();
            let second = device.view(dtype, outs - cut, cols, ring, IO_ALIGN);
            device.write(ring, IO_ALIGN, &packed).unwrap();
            let (x, bias) = (put(&mut *device, &x), put(&mut *device, &bias));
            let out = device.alloc(rows * outs * 4, "out").unwrap();
            let slab =
                |weight, first| Projection { weight, bias: Some(bias), out, first, stride: outs };
            let projections = [slab(first, 0), slab(second, cut)].into();
            device.run(&[Call::Linear { x, rows, cols, projections }]).unwrap();
            same_bits(&format!("{name}: {dtype}"), &get(&mut *device, out, rows * outs), &want);
            device.unload(second);
            device.unload(first);
        }
    }
}

/// Runs one call that `build` makes from buffers of `inputs`, and returns buffer `out`.
fn run_one(
    device: &mut dyn Device,
    inputs: &[&[f32]],
    out: usize,
    build: &dyn Fn(&[Buffer]) -> Call,
) -> Vec<f32> {
    let buffers: Vec<Buffer> = inputs.iter().map(|input| put(device, input)).collect();
    device.run(&[build(&buffers)]).unwrap();
    let y = get(device, buffers[out], inputs[out].len());
    buffers.into_iter().for_each(|b| device.free(b));
    y
}

/// Compares one call on every device; f32 kernels differ in rounding and order of sums only.
fn compare(test: &str, inputs: &[&[f32]], out: usize, build: &dyn Fn(&[Buffer]) -> Call) {
    let want = run_one(&mut ReferenceDevice::new(), inputs, out, build);
    for (name, mut device) in devices() {
        let got = run_one(&mut *device, inputs, out, build);
        close(&format!("{name}: {test}"), &got, &want, 1e-10);
    }
}

#[test]
fn rms_norm_matches() {
    let mut noise = Noise(11);
    for (rows, cols) in [(1, 576), (9, 64), (30, 77)] {
        let (x, weight) = (noise.many(rows * cols), noise.many(cols));
        let y = vec![0.0; x.len()];
        for out in [0, 2] {
            compare("rms norm", &[&x, &weight, &y], out, &|b| {
                let (x, weight, out) = (b[0], b[1], b[out]);
                Call::RmsNorm { x, weight, out, rows, cols, eps: 1e-5 }
            });
        }
    }
}

#[test]
fn rope_matches() {
    let mut noise = Noise(12);
    for style in [RopeStyle::Adjacent, RopeStyle::Halves] {
        for (rows, heads, head_dim, pairs) in [(1, 3, 64, 32), (7, 2, 20, 8)] {
            let x = noise.many(rows * heads * head_dim);
            let turns = noise.many(rows * pairs);
            let angles: Vec<f32> = turns.iter().flat_map(|t| [t.cos(), t.sin()]).collect();
            compare("rope", &[&x, &angles], 0, &|b| {
                let (x, angles) = (b[0], b[1]);
                Call::Rope { x, angles, rows, heads, head_dim, pairs, style }
            });
        }
    }
}

#[test]
fn elementwise_calls_match() {
    let mut noise = Noise(13);
    let count = 1000;
    let gate: Vec<f32> = noise.many(count).iter().map(|v| v * 30.0).collect();
    let up = noise.many(count);
    let y = vec![0.0; count];
    for activation in [Activation::Silu, Activation::GeluTanh] {
        for out in [0, 2] {
            compare("gate", &[&gate, &up, &y], out, &|b| {
                let (gate, up, out) = (b[0], b[1], b[out]);
                Call::Gate { gate, up, out, count, activation }
            });
        }
    }
    compare("add", &[&gate, &up], 0, &|b| Call::Add { x: b[0], y: b[1], count });
    let index = [7u32, 0, 3, 3].map(f32::from_bits);
    let out = vec![0.0; 6 * 100];
    compare("gather", &[&gate, &index, &out], 2, &|b| {
        let (x, index, out) = (b[0], b[1], b[2]);
        Call::Gather { x, index, out, first: 2, rows: 4, cols: 100 }
    });
}

#[test]
fn heads_are_rotated_and_key_biases_are_split() {
    let mut noise = Noise(11);
    for (heads, kv_heads, head_dim) in [(6, 2, 64), (4, 1, 256), (3, 3, 96), (2, 2, 20)] {
        let rows = 9;
        let x = noise.many(rows * heads * head_dim);
        compare("rotate", &[&x], 0, &|b| Call::Rotate { x: b[0], rows, heads, head_dim });
        let (bias, out) = (noise.many(kv_heads * head_dim), vec![0.0; x.len()]);
        for style in [RopeStyle::Halves, RopeStyle::Adjacent] {
            compare("bias terms", &[&x, &bias, &out], 2, &|b| {
                let (q, bias, out) = (b[0], b[1], b[2]);
                Call::BiasTerms { q, bias, out, rows, heads, kv_heads, head_dim, style }
            });
        }
    }
}

/// More workgroups than one dimension of a grid holds.
#[test]
fn large_counts_fold() {
    let count = 65535 * 64 + 100;
    let x: Vec<f32> = (0..count).map(|i| i as f32).collect();
    compare("large add", &[&x, &x.clone()], 0, &|b| Call::Add { x: b[0], y: b[1], count });
}

/// A cache in use and rows over it.
struct Scene {
    layout: CacheLayout,
    heads: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
    slots: Vec<u32>,
    pages: Vec<u32>,
    path: Vec<u32>,
    map: Vec<AttentionRow>,
    queries: Vec<f32>,
}

/// Positions of the scene's sequence.
const LENGTH: u32 = 75;

/// The first of the scene's rows that see the whole sequence; all later ones ask the same.
const WHOLE: usize = 7;

impl Scene {
    /// One sequence on scattered pages; rows see it through the page table, a path, or both.
    fn new(layout: CacheLayout, heads: usize) -> Scene {
        let mut noise = Noise(layout.head_dim as u64);
        let pages = vec![99, 4, 0, 6, 2, 5];
        let len = PAGE_LEN as u32;
        let slots: Vec<u32> =
            (0..LENGTH).map(|p| pages[1 + (p / len) as usize] * len + p % len).collect();
        let mut map = Vec::new();
        for length in [1, 2, 15, 16, 17, 33, 64, LENGTH] {
            map.push(AttentionRow { page_start: 1, prefix: length, path_start: 0, length });
        }
        // The same positions by path: all, from a page's start and middle, the last alone.
        let path: Vec<u32> = [vec![77; 3], slots.clone()].concat();
        for prefix in [0, 32, 40, LENGTH - 1] {
            let path_start = 3 + prefix;
            map.push(AttentionRow { page_start: 1, prefix, path_start, length: LENGTH });
        }
        let row = heads * layout.head_dim;
        let mut queries = noise.many(map.len() * row);
        for again in WHOLE + 1..map.len() {
            queries.copy_within(WHOLE * row..(WHOLE + 1) * row, again * row);
        }
        let count = LENGTH as usize * layout.width();
        let (keys, values) = (noise.many(count), noise.many(count));
        Scene { layout, heads, keys, values, slots, pages, path, map, queries }
    }

    /// Codes may fall to either side of a tie where devices round differently.
    fn tolerance(&self) -> f64 {
        if self.layout.format.is_compressed() { 1e-4 } else { 1e-10 }
    }

    fn run(&self, device: &mut dyn Device, window: usize) -> Vec<f32> {
        let cache = device.alloc(7 * self.layout.page_bytes(), "cache").unwrap();
        let (k, v) = (put(device, &self.keys), put(device, &self.values));
        let (q, map) = (put(device, &self.queries), put(device, &self.map));
        let (slots, pages) = (put(device, &self.slots), put(device, &self.pages));
        let path = put(device, &self.path);
        let out = put(device, &vec![9f32; self.queries.len()]);
        let key_bias = self.layout.format.is_compressed().then(|| {
            let mut terms = Noise(5).many(self.queries.len());
            let row = self.queries.len() / self.map.len();
            for again in WHOLE + 1..self.map.len() {
                terms.copy_within(WHOLE * row..(WHOLE + 1) * row, again * row);
            }
            let terms = put(device, &terms);
            let turns = Noise(6).many(LENGTH as usize * self.layout.head_dim);
            KeyBias { terms, turns: put(device, &turns) }
        });
        let scale = 1.0 / (self.layout.head_dim as f32).sqrt();
        let (rows, layout, heads) = (self.map.len(), self.layout, self.heads);
        let longest = LENGTH as usize;
        #[rustfmt::skip]
        let calls = [
            Call::Append { k, v, cache, slots, rows: self.slots.len(), layout },
            Call::Attention {
                q, cache, map, pages, path, out, rows, longest, heads, layout, key_bias, scale, window,
            },
        ];
        device.run(&calls).unwrap();
        let y = get(device, out, self.queries.len());
        let bias = key_bias.iter().flat_map(|bias| [bias.terms, bias.turns]);
        [cache, k, v, slots, q, map, pages, path, out]
            .into_iter()
            .chain(bias)
            .for_each(|b| device.free(b));
        y
    }
}

#[test]
fn attention_matches_through_pages_paths_and_windows() {
    let f16 = [0, 1, 20, 32].map(|window| (window, KvFormat::F16));
    let codes = [(0, KvFormat::K8V4), (20, KvFormat::Q4), (0, KvFormat::Q4)];
    let ways = f16.into_iter().chain(codes);
    for (kv_heads, head_dim, heads) in [(3, 64, 9), (1, 256, 4), (2, 10, 2), (2, 128, 12)] {
        for (window, format) in ways.clone() {
            let scene = Scene::new(CacheLayout { kv_heads, head_dim, format }, heads);
            let want = scene.run(&mut ReferenceDevice::new(), window);
            for (name, mut device) in devices() {
                let got = scene.run(&mut *device, window);
                let what =
                    format!("{name}: {heads} heads of {head_dim}, {format}, window {window}");
                close(&what, &got, &want, scene.tolerance());
                let row = heads * head_dim;
                for again in WHOLE + 1..scene.map.len() {
                    let by_path = &got[again * row..(again + 1) * row];
                    let by_pages = &got[WHOLE * row..(WHOLE + 1) * row];
                    same_bits(&format!("{what}: path row {again}"), by_path, by_pages);
                }
            }
        }
    }
}

/// Slots are moved one after the other, bit by bit, and nothing else changes.
#[test]
fn slots_move_in_order() {
    // A chain: each slot is moved from before it is moved to. Within a page and across pages.
    let moves: Vec<u32> = [[3, 2], [17, 3], [40, 17], [41, 18], [5, 5]].concat();
    for (kv_heads, head_dim) in [(3, 64), (1, 10), (8, 128)] {
        for format in KvFormat::ALL {
            let layout = CacheLayout { kv_heads, head_dim, format };
            let words = Noise(3).many(3 * layout.page_bytes() / 4);
            let moved = |device: &mut dyn Device| {
                let (cache, moves) = (put(device, &words), put(device, &moves));
                device.run(&[Call::Move { cache, moves, count: 5, layout }]).unwrap();
                get(device, cache, words.len())
            };
            let want = moved(&mut ReferenceDevice::new());
            let bytes: (&[u8], &[u8]) = (bytemuck::cast_slice(&words), bytemuck::cast_slice(&want));
            let key = |slot: usize, bytes: &[u8]| {
                bytes[layout.key_at(slot)..][..kv_heads * layout.key_bytes()].to_vec()
            };
            assert_eq!(key(17, bytes.0), key(3, bytes.1));
            assert_eq!(key(40, bytes.0), key(17, bytes.1));
            for (name, mut device) in devices() {
                same_bits(&format!("{name}: {format}"), &moved(&mut *device), &want);
            }
        }
    }
}

#[test]
fn heads_too_long_for_the_gpu_are_refused() {
    for (name, mut device) in devices().into_iter().filter(|(name, _)| name != "cpu") {
        let layout = CacheLayout { kv_heads: 1, head_dim: 258, format: KvFormat::Q4 };
        let b = device.alloc(1 << 16, "anything").unwrap();
        let call = Call::Append { k: b, v: b, cache: b, slots: b, rows: 1, layout };
        let refused = device.run(&[call]).unwrap_err().to_string();
        assert!(refused.contains("258"), "{name}: {refused}");
    }
}

#[test]
fn memory_is_counted_and_given_back() {
    for (name, mut device) in devices() {
        let before = device.memory().bytes;
        let buffer = device.alloc(1 << 20, "a buffer").unwrap();
        let bytes = matrix(&mut Noise(1), DType::Q4_0, 64, 512);
        let weight = device.load(DType::Q4_0, 64, 512, &bytes, "a matrix").unwrap();
        assert_eq!(device.memory().bytes - before, (1 << 20) + bytes.len() as u64, "{name}");
        assert!(get(&mut *device, buffer, 1 << 18).iter().all(|v| *v == 0.0), "{name}: not zeroed");
        device.free(buffer);
        device.unload(weight);
        assert_eq!(device.memory().bytes, before, "{name}");
        let refused = device.alloc(1 << 50, "everything").unwrap_err().to_string();
        assert!(refused.contains("everything"), "{name}: {refused}");
    }
}

#[test]
fn large_writes_and_reads_round_trip() {
    for (name, mut device) in devices() {
        let words: Vec<u32> = (0..3_000_000u32).map(|i| i.wrapping_mul(2654435761)).collect();
        let buffer = device.alloc(words.len() * 4 + 8, "words").unwrap();
        device.write(buffer, 8, bytemuck::cast_slice(&words)).unwrap();
        let mut back = vec![0u32; words.len()];
        device.read(buffer, 8, bytemuck::cast_slice_mut(&mut back)).unwrap();
        assert!(back == words, "{name}");
    }
}
