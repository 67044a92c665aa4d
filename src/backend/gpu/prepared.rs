//! Tests of kernels that are compiled ahead and kept, on the adapter that there is.

use super::adapter::{Selector, adapters};
use super::device::{GpuDevice, Options};
use super::kept::KernelStore;
use super::kernels::Family;
use crate::backend::Device;
use crate::kernel::{Call, Projection};
use crate::quant::DType;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

const COLS: usize = 256;
const ROWS_MAX: usize = 100;

/// The adapter that there is, unless tests are to leave it alone.
pub(super) fn open(family: Family, store: Option<Arc<dyn KernelStore>>) -> Option<GpuDevice> {
    if std::env::var("FOREBAY_GPU").is_ok_and(|wish| wish == "skip") {
        return None;
    }
    let adapter = adapters().into_iter().find(|adapter| adapter.usable)?;
    let options = Options { family: Some(family), store, ..Options::default() };
    GpuDevice::open_with(&Selector::Index(adapter.index), options).ok()
}

/// A linear layer of each kind of weights, and a norm; `rows` rows each.
fn calls(device: &mut GpuDevice, rows: usize) -> Vec<Call> {
    let mut buffer = |bytes| device.alloc(bytes, "test").unwrap();
    let [x, out] = [0; 2].map(|_| buffer(ROWS_MAX * COLS * 4));
    let norm = buffer(COLS * 4);
    let mut calls = vec![Call::RmsNorm { x, weight: norm, out, rows, cols: COLS, eps: 1e-6 }];
    for dtype in [DType::Q4K, DType::Q8_0, DType::F16] {
        let bytes = vec![0; 16 * dtype.row_bytes(COLS)];
        let weight = device.load(dtype, 16, COLS, &bytes, "test").unwrap();
        let projections = [Projection::whole(weight, None, out)].into();
        calls.push(Call::Linear { x, rows, cols: COLS, projections });
    }
    calls
}

#[test]
fn no_kernel_is_compiled_late() {
    for family in [Family::Lanes, Family::Tiles] {
        let Some(mut device) = open(family, None) else { return };
        let sketched = calls(&mut device, 1);
        device.prepare(&sketched);
        let known = device.kernels();
        assert!(known > 3, "{known}");
        for rows in [1, 3, 8, ROWS_MAX] {
            let calls = calls(&mut device, rows);
            device.run(&calls).unwrap();
        }
        assert_eq!(device.kernels(), known, "{family:?}");
    }
}

#[derive(Default)]
struct InMemory(Mutex<HashMap<String, Vec<u8>>>, Mutex<usize>);

impl KernelStore for InMemory {
    fn load(&self, name: &str) -> Option<Vec<u8>> {
        self.0.lock().unwrap().get(name).cloned()
    }

    fn save(&self, name: &str, bytes: &[u8]) {
        *self.1.lock().unwrap() += 1;
        self.0.lock().unwrap().insert(name.to_string(), bytes.to_vec());
    }
}

#[test]
fn what_drivers_compile_is_kept_for_the_next_process() {
    let store = Arc::new(InMemory::default());
    let run = |store: Arc<InMemory>| {
        let mut device = open(Family::Tiles, Some(store))?;
        let calls = calls(&mut device, 4);
        device.run(&calls).unwrap();
        let Call::RmsNorm { out, .. } = calls[0] else { unreachable!("a norm is the first") };
        device.read(out, 0, &mut [0; 4]).unwrap();
        Some(device.keeps_kernels())
    };
    if run(Arc::clone(&store)) != Some(true) {
        return;
    }
    let kept = store.0.lock().unwrap().clone();
    assert!(kept.values().next().is_some_and(|bytes| bytes.len() > 32));
    run(Arc::clone(&store)).unwrap();
    assert_eq!(*store.0.lock().unwrap(), kept);
    // What another driver or a crash left there is no reason to fail.
    store.0.lock().unwrap().values_mut().for_each(|bytes| bytes.truncate(40));
    run(store).unwrap();
}
