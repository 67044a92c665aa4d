//! Tests: reads past the page cache, files without a name, and what disks do to them.

use super::{AlignedBuffer, DirectFile, IoControl, SpillFile, Throttle};
use crate::store::faults::{ALWAYS, Fault, FaultKind, Faults};
use std::fs;
use std::sync::Arc;
use std::time::Instant;

const PAGE: usize = 4096;

fn filled(len: usize, seed: u8) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::new(len).expect("memory");
    for (at, byte) in buffer.iter_mut().enumerate() {
        *byte = (at / PAGE) as u8 ^ (at as u8).wrapping_mul(31) ^ seed;
    }
    buffer
}

fn with(kind: FaultKind, first: u64, count: u64) -> IoControl {
    IoControl {
        faults: Some(Faults::new(vec![Fault { kind, first, count }])),
        ..IoControl::default()
    }
}

#[test]
fn reads_are_exact_and_end_with_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("data");
    let data = filled(10 * PAGE, 1);
    fs::write(&path, &data[..9 * PAGE + 100]).expect("written");
    let file = DirectFile::open(&path, IoControl::default()).expect("opened");
    assert_eq!(file.size(), 9 * PAGE as u64 + 100);
    let mut out = filled(4 * PAGE, 9);
    file.read_at(PAGE as u64, &mut out).expect("readable");
    assert!(out[..] == data[PAGE..5 * PAGE]);
    let got = file.read_up_to(8 * PAGE as u64, &mut out).expect("readable");
    assert!(got == PAGE + 100 && out[..got] == data[8 * PAGE..][..got]);
    let error = file.read_at(8 * PAGE as u64, &mut out).expect_err("too short").to_string();
    assert!(error.contains("data: cannot read 16384 bytes at offset 32768: "), "{error}");
    assert!(DirectFile::open(folder.path(), IoControl::default()).is_err());
}

/// Pages of a file that the system holds a copy of, as `preadv2` tells without reading them.
#[cfg(target_os = "linux")]
fn cached_pages(path: &std::path::Path, pages: usize) -> usize {
    use rustix::io::{ReadWriteFlags, preadv2};
    let file = fs::File::open(path).expect("opened");
    let mut byte = [0];
    let mut held = |page: usize| {
        let out = &mut [std::io::IoSliceMut::new(&mut byte)];
        preadv2(&file, out, (page * PAGE) as u64, ReadWriteFlags::NOWAIT).is_ok()
    };
    (0..pages).filter(|&page| held(page)).count()
}

/// Neither reads nor writes leave the file in the page cache, through it or past it.
#[cfg(target_os = "linux")]
#[test]
fn the_page_cache_does_not_grow() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a folder");
    let path = folder.path().join("data");
    let data = filled(512 * PAGE, 1);
    fs::write(&path, &data[..]).expect("written");
    let file = DirectFile::open(&path, IoControl::default()).expect("opened");
    if !file.is_direct() {
        eprintln!("skipped: this file system has no direct reads");
        return;
    }
    let plain = fs::File::open(&path).expect("opened");
    let mut out = AlignedBuffer::new(data.len()).expect("memory");
    for buffered in [false, true] {
        plain.sync_all().expect("synced");
        super::raw::forget(&plain, 0, 0);
        if buffered {
            file.go_buffered(&std::io::ErrorKind::Other.into());
            assert!(!file.is_direct());
        }
        out.fill(0);
        for at in [0, 128, 256, 384] {
            file.read_at((at * PAGE) as u64, &mut out[at * PAGE..][..128 * PAGE]).expect("read");
        }
        assert!(out[..] == data[..]);
        // Another program (a backup, an indexer) may read it too: a few pages prove nothing.
        assert!(cached_pages(&path, 512) < 64, "buffered: {buffered}");
    }
}

/// Direct transfers may end anywhere: they go on from the page before, or through the page cache where
/// they do not get that far.
#[test]
fn transfers_that_end_within_a_page_go_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let capacity = 4 * PAGE as u64;
    let file = SpillFile::create(folder.path(), capacity, IoControl::default()).expect("made").file;
    let direct = file.is_direct();
    let page = if direct { PAGE } else { PAGE + 100 };
    assert_eq!((file.settle(0, PAGE + 100, 0), file.is_direct()), (page, direct));
    assert_eq!(file.settle(0, 4 * PAGE, PAGE), 4 * PAGE);
    assert_eq!(file.settle(3 * PAGE as u64, PAGE, 0), PAGE);
    let start = if direct { PAGE } else { PAGE + 100 };
    assert_eq!((file.settle(0, PAGE + 100, PAGE), file.is_direct()), (start, false));
    assert_eq!(file.settle(0, PAGE + 100, PAGE), PAGE + 100);
}

#[test]
fn transfers_outlast_faults_that_pass() {
    let folder = tempfile::tempdir().expect("a folder");
    let capacity = 64 * PAGE as u64;
    for (kind, first, count) in
        [(FaultKind::Short, 0, ALWAYS), (FaultKind::Error, 0, 1), (FaultKind::Error, 1, 1)]
    {
        let file =
            SpillFile::create(folder.path(), capacity, with(kind, first, count)).expect("made");
        let data = filled(64 * PAGE, 3);
        file.write_at(0, &data).expect("written");
        let mut out = AlignedBuffer::new(64 * PAGE).expect("memory");
        file.read_at(0, &mut out).expect("read");
        assert!(out[..] == data[..], "{kind:?}");
    }
    let control = with(FaultKind::Error, 0, ALWAYS);
    let file = SpillFile::create(folder.path(), capacity, control).expect("made");
    let error = file.write_at(8192, &filled(PAGE, 0)).expect_err("broken").to_string();
    assert!(error.contains("(KV cache): cannot write 4096 bytes at offset 8192: "), "{error}");
}

#[test]
fn a_spill_file_has_no_name_and_fixed_room() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = folder.path().join("made/too");
    let file = SpillFile::create(&disk, 10 * PAGE as u64 - 5, IoControl::default()).expect("made");
    assert_eq!(file.capacity(), 10 * PAGE as u64);
    assert_eq!(fs::read_dir(&disk).expect("a folder").count(), 0);
    let mut out = filled(2 * PAGE, 1);
    file.read_at(4 * PAGE as u64, &mut out).expect("read");
    assert!(out.iter().all(|&byte| byte == 0), "what was not written is zero");
    file.write_at(8 * PAGE as u64, &filled(2 * PAGE, 2)).expect("written");
    for offset in [9 * PAGE as u64, 1 << 40, u64::MAX - 4095] {
        let error = file.write_at(offset, &filled(2 * PAGE, 2)).expect_err("no room").to_string();
        assert!(error.contains("room for 40960 bytes"), "{error}");
    }
    file.read_at(9 * PAGE as u64, &mut out).expect_err("beyond the end");
    let needed = super::free_bytes(&disk).map_or(1 << 50, |free| free + (1 << 40));
    let error = SpillFile::create(&disk, needed, IoControl::default()).expect_err("no room");
    assert!(error.to_string().contains("bytes are missing"), "{error}");
}

/// Runs of pages by many threads, each with its own.
#[test]
fn a_spill_file_is_shared_by_threads() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = SpillFile::create(folder.path(), 8 * 16 * PAGE as u64, IoControl::default());
    let file = &file.expect("made");
    std::thread::scope(|scope| {
        for thread in 0..8u8 {
            scope.spawn(move || {
                let at = u64::from(thread) * 16 * PAGE as u64;
                let mut out = AlignedBuffer::new(16 * PAGE).expect("memory");
                for round in 0..20 {
                    let data = filled(16 * PAGE, thread ^ (round << 3));
                    file.write_at(at, &data).expect("written");
                    file.read_at(at, &mut out).expect("read");
                    assert!(out[..] == data[..]);
                }
            });
        }
    });
}

#[test]
fn all_files_of_a_tier_share_its_rate() {
    let folder = tempfile::tempdir().expect("a folder");
    let throttle = Arc::new(Throttle::new(20_000_000));
    let make = || {
        let control = IoControl { throttle: Some(Arc::clone(&throttle)), ..IoControl::default() };
        SpillFile::create(folder.path(), 1 << 20, control).expect("made")
    };
    let (a, b) = (make(), make());
    let start = Instant::now();
    let mut out = filled(1 << 20, 1);
    a.write_at(0, &out).expect("written");
    b.read_at(0, &mut out).expect("read");
    assert!(start.elapsed().as_secs_f64() >= 2.0 * (1 << 20) as f64 / 2e7 - 0.006);
}
