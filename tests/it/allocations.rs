//! A pass that is made like the one before allocates nothing.

use crate::support::{fixture, open};
use forebay::backend::cpu::CpuDevice;
use forebay::exec::{Executor, ExecutorConfig};
use forebay::kernel::KvFormat;
use forebay::schedule::{Batch, Span, TreeSpan};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

/// The system's allocator, which counts what each thread asks for.
struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending counts no more.
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: all is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: passed on.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: passed on.
        unsafe { System.realloc(at, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Three sequences: one decodes, one reads its prompt, one has a tree and rows to be moved.
fn batch() -> Batch {
    let mut batch = Batch::default();
    batch.push(Span { tokens: &[5], start: 20, pages: &[0, 1], logits: 1, moves: &[] });
    let prompt: Vec<u32> = (1..9).collect();
    batch.push(Span { tokens: &prompt, start: 0, pages: &[2], logits: 0, moves: &[] });
    batch.push_tree(TreeSpan {
        lead: &[],
        tokens: &[7, 8, 9],
        paths: &[vec![], vec![1], vec![1, 2]],
        start: 12,
        pages: &[3],
        outputs: &[0, 1],
        moves: &[(13, 11)],
    });
    batch
}

#[test]
fn passes_of_one_shape_allocate_nothing() {
    for name in ["llama", "qwen2", "qwen3", "gemma3"] {
        let model = open(&fixture(&format!("fixtures/tiny/{name}")));
        for (micro_rows, kv_format) in [(12, KvFormat::F16), (5, KvFormat::Q4)] {
            let config = ExecutorConfig::resident(12, 8);
            let config = ExecutorConfig { micro_rows, kv_format, ..config };
            let device = Box::new(CpuDevice::new(Some(1)).unwrap());
            let files = Arc::clone(&model.files);
            let mut executor = Executor::new(device, files, config, &mut |_, _| {}).unwrap();
            let batch = batch();
            let mut pass = || {
                let before = COUNT.get();
                executor.pass(&batch, &mut |_, _| {}).unwrap();
                COUNT.get() - before
            };
            assert!(pass() + pass() > 0, "{name}: the first passes take their memory");
            assert_eq!([pass(), pass()], [0, 0], "{name}, {micro_rows} rows, {kv_format:?}");
        }
    }
}
