//! Append and attention.

use super::{Random, bits, devices, nmse, put, take};
use crate::backend::{Device, reference::ReferenceDevice};
use crate::kernel::{AttentionRow, CacheLayout, Call, KeyBias, KvFormat, PAGE_LEN, RopeStyle};

/// One attention call and its operands.
#[derive(Clone)]
struct Case {
    layout: CacheLayout,
    heads: usize,
    window: usize,
    q: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    slots: Vec<u32>,
    map: Vec<AttentionRow>,
    pages: Vec<u32>,
    path: Vec<u32>,
    /// A bias of keys, and turns of positions; without, there are none.
    bias: Option<(Vec<f32>, Vec<f32>)>,
}

/// Rows of mixed lengths over shuffled pages, of which every third one is a tree node with a scattered
/// path; then a chunk of one sequence, and a tree on its end.
fn case(dim: usize, (heads, kv_heads): (usize, usize), window: usize, seed: u64) -> Case {
    let mut random = Random(seed);
    let format = KvFormat::F16;
    let layout = CacheLayout { kv_heads, head_dim: dim, format };
    // Enough of them that each is computed with all its heads at once.
    let lengths = [1, 15, 16, 17, 33, 70, 64, 100, 5, 40, 48, 31, 90, 2, 77, 63, 20, 50];
    let page_count = 80;
    let mut pages: Vec<u32> = (0..page_count).collect();
    (0..pages.len()).rev().for_each(|i| pages.swap(i, random.below(i + 1)));
    let slots: Vec<u32> = (0..page_count * PAGE_LEN as u32).collect();
    let (mut map, mut path) = (Vec::new(), Vec::new());
    for (row, length) in lengths.into_iter().enumerate() {
        let tree = if row % 3 == 2 { 1 + random.below(length) } else { 0usize };
        map.push(AttentionRow {
            page_start: 4 * row as u32,
            prefix: (length - tree) as u32,
            path_start: path.len() as u32,
            length: length as u32,
        });
        path.extend((0..tree).map(|_| slots[random.below(slots.len())]));
    }
    for length in 14..34 {
        map.push(AttentionRow { page_start: 30, prefix: length, path_start: 0, length });
    }
    for nodes in [1, 2, 3, 1, 2, 20] {
        let (path_start, length) = (path.len() as u32, 33 + nodes);
        map.push(AttentionRow { page_start: 30, prefix: 33, path_start, length });
        path.extend((0..nodes).map(|_| slots[random.below(slots.len())]));
    }
    let width = slots.len() * layout.width();
    let (keys, values) = (random.values(width), random.values(width));
    let q = random.values(map.len() * heads * dim);
    Case { layout, heads, window, q, keys, values, slots, map, pages, path, bias: None }
}

/// A bias of keys, and turns of 100 positions.
fn bias(layout: CacheLayout) -> (Vec<f32>, Vec<f32>) {
    let mut random = Random(3);
    (random.values(layout.width()), random.values(100 * layout.head_dim))
}

/// Fills the cache by `Append` and attends; returns the output and the cache.
fn run(device: &mut dyn Device, case: &Case) -> (Vec<f32>, Vec<u16>) {
    let Case { layout, heads, window, .. } = *case;
    let cache_bytes = case.slots.len() / PAGE_LEN * layout.page_bytes();
    let [q, k, v] = [&case.q, &case.keys, &case.values].map(|values| put(device, values));
    let [slots, pages, path] =
        [&case.slots, &case.pages, &case.path].map(|values| put(device, values));
    let map = put(device, &case.map);
    let cache = device.alloc(cache_bytes, "cache").unwrap();
    let out = device.alloc(case.q.len() * 4, "out").unwrap();
    let scale = 1.0 / (layout.head_dim as f32).sqrt();
    let rows = case.map.len();
    let key_bias = case.bias.as_ref().map(|(bias, turns)| {
        let (bias, turns) = (put(device, bias), put(device, turns));
        let terms = device.alloc(case.q.len() * 4, "terms").unwrap();
        let (kv_heads, head_dim, style) = (layout.kv_heads, layout.head_dim, RopeStyle::Halves);
        #[rustfmt::skip]
        let call =
            Call::BiasTerms { q, bias, out: terms, rows, heads, kv_heads, head_dim, style };
        device.run(&[call]).unwrap();
        KeyBias { terms, turns }
    });
    device
        .run(&[
            Call::Append { k, v, cache, slots, rows: case.slots.len(), layout },
            Call::Attention {
                q,
                cache,
                map,
                pages,
                path,
                out,
                rows,
                longest: 1,
                heads,
                layout,
                key_bias,
                scale: 3.0 * scale,
                window,
            },
        ])
        .unwrap();
    (take(device, out, case.q.len()), take(device, cache, cache_bytes / 2))
}

/// Attention differs from f64 by a few roundings of f32 only; the cache is the same bits.
#[test]
fn attention_matches_the_reference() {
    // Heads of more than one unit, and scales of more than one vector, are among them.
    let shapes =
        [(64, (9, 3)), (96, (4, 4)), (128, (7, 1)), (544, (2, 1)), (20, (6, 2)), (32, (20, 10))];
    let codes = [(20, KvFormat::K8V4), (48, KvFormat::Q4)];
    for (dim, heads) in shapes {
        let f16 = [0, 1, 20, 48].map(|window| (window, KvFormat::F16, false));
        let codes = [false, true].map(|bias| codes.map(|(window, format)| (window, format, bias)));
        for (window, format, biased) in f16.into_iter().chain(codes.into_iter().flatten()) {
            let mut case = case(dim, heads, window, dim as u64);
            case.layout.format = format;
            case.bias = biased.then(|| bias(case.layout));
            let (want, want_cache) = run(&mut ReferenceDevice::new(), &case);
            let mut first: Option<Vec<u32>> = None;
            for (name, mut device) in devices() {
                let (got, cache) = run(&mut device, &case);
                assert!(cache == want_cache, "cache, {dim} {heads:?} {format} {name}");
                let error = nmse(&got, &want);
                assert!(error < 1e-11, "{dim} {heads:?} {format} window {window}, {name}: {error}");
                let got = bits(&got);
                assert!(*first.get_or_insert_with(|| got.clone()) == got, "bits of {name}");
            }
        }
    }
}

/// A row has the same bits alone, after its fellows are gone, and with its pages elsewhere.
#[test]
fn rows_have_the_same_bits_in_any_company() {
    for (format, heads, biased) in [
        (KvFormat::Q4, (6, 2), false),
        (KvFormat::Q4, (6, 2), true),
        (KvFormat::K8V4, (4, 1), false),
        (KvFormat::K8V4, (4, 1), true),
        (KvFormat::F16, (6, 2), false),
        (KvFormat::F16, (7, 1), false),
    ] {
        let mut case = case(64, heads, 0, 7);
        case.layout.format = format;
        case.bias = biased.then(|| bias(case.layout));
        let width = case.heads * case.layout.head_dim;
        for (name, mut device) in devices() {
            let (all, _) = run(&mut device, &case);
            for row in 0..case.map.len() {
                let mut alone = case.clone();
                alone.map = vec![case.map[row]];
                alone.q = case.q[row * width..][..width].to_vec();
                let (got, _) = run(&mut device, &alone);
                let want = &all[row * width..][..width];
                assert_eq!(bits(&got), bits(want), "row {row}, {format}, {biased}, {name}");
            }
        }
    }
}

/// A position found through the page table or through a path is the same position.
#[test]
fn a_path_gives_the_bits_of_a_prefix() {
    let case = case(128, (4, 2), 30, 11);
    let mut moved = case.clone();
    moved.path.clear();
    for row in &mut moved.map {
        let positions = 0..row.length as usize;
        let slots: Vec<u32> = positions
            .map(|p| match p.checked_sub(row.prefix as usize) {
                None => {
                    let page = case.pages[row.page_start as usize + p / PAGE_LEN];
                    page * PAGE_LEN as u32 + (p % PAGE_LEN) as u32
                }
                Some(node) => case.path[row.path_start as usize + node],
            })
            .collect();
        (row.prefix, row.path_start) = (0, moved.path.len() as u32);
        moved.path.extend(slots);
    }
    for (name, mut device) in devices() {
        assert_eq!(bits(&run(&mut device, &case).0), bits(&run(&mut device, &moved).0), "{name}");
    }
}

/// What lies in slots that no row maps never matters.
#[test]
fn unmapped_slots_do_not_matter() {
    for format in KvFormat::ALL {
        let mut case = case(64, (2, 1), 20, 13);
        case.layout.format = format;
        case.map.iter_mut().for_each(|row| row.prefix = row.length);
        let (_, mut device) = devices().remove(0);
        let (clean, _) = run(&mut device, &case);
        let mut mapped = vec![false; case.slots.len()];
        for row in &case.map {
            for p in (row.length as usize).saturating_sub(20)..row.length as usize {
                let page = case.pages[row.page_start as usize + p / PAGE_LEN] as usize;
                mapped[page * PAGE_LEN + p % PAGE_LEN] = true;
            }
        }
        for (slot, _) in mapped.iter().enumerate().filter(|(_, mapped)| !**mapped) {
            // Neither 16-bit floats nor scales hold it.
            case.keys[slot * 64..][..64].fill(f32::MAX);
            case.values[slot * 64..][..64].fill(f32::MAX);
        }
        assert_eq!(bits(&run(&mut device, &case).0), bits(&clean), "{format}");
    }
}
