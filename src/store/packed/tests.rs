//! Tests: the bytes are those of the model's files, and files or disks that are not whole.

use super::layout::{Layout, VERSION};
use super::{CacheOptions, PackedCache};
use crate::model::{Role, TensorId};
use crate::quant::segments;
use crate::quant::{DType, Packing, pack};
use crate::store::checksum;
use crate::store::faults::{ALWAYS, Fault, FaultKind, Faults, Faulty};
use crate::store::gguf::{GgufWriter, TensorPlan, Value};
use crate::store::{AlignedBuffer, FileWeights, IoControl, ModelFiles, StoreError, WeightSource};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn random(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    (0..len).map(next).collect()
}

/// A llama of one layer with random bytes for weights. Each matrix has another type, as `shift` turns
/// them; rows of most fill no last tile; the embedding, which is the head, has 5000 rows.
fn model(folder: &Path, shift: usize) -> Arc<ModelFiles> {
    let sizes = [
        ("embedding_length", 256),
        ("context_length", 64),
        ("block_count", 1),
        ("attention.head_count", 8),
        ("attention.head_count_kv", 4),
        ("attention.key_length", 32),
        ("feed_forward_length", 264),
    ];
    let mut keys = vec![("general.architecture".to_string(), Value::text("llama"))];
    keys.extend(sizes.map(|(key, size)| (format!("llama.{key}"), Value::u32(size))));
    keys.push(("llama.attention.layer_norm_rms_epsilon".into(), Value::f32(1e-5)));
    let dtype = |at: usize| DType::ALL[(at + shift) % DType::ALL.len()];
    let matrix = |at, name: &str, rows, cols| {
        TensorPlan::matrix(format!("blk.0.{name}.weight"), dtype(at), rows, cols)
    };
    // 264 columns fill no blocks.
    let down = DType::ALL[shift % 3];
    let tensors = vec![
        TensorPlan::matrix("token_embd.weight", dtype(0), 5000, 256),
        TensorPlan::vector("blk.0.attn_norm.weight", 256),
        matrix(1, "attn_q", 256, 256),
        matrix(2, "attn_k", 128, 256),
        matrix(3, "attn_v", 128, 256),
        matrix(4, "attn_output", 256, 256),
        TensorPlan::vector("blk.0.ffn_norm.weight", 256),
        matrix(5, "ffn_gate", 264, 256),
        matrix(6, "ffn_up", 264, 256),
        TensorPlan::matrix("blk.0.ffn_down.weight", down, 256, 264),
        TensorPlan::vector("output_norm.weight", 256),
    ];
    let mut writer = GgufWriter::new(Vec::new(), &keys, tensors.clone()).expect("memory");
    for (at, tensor) in tensors.iter().enumerate() {
        writer.write(&random(tensor.bytes() as usize, (at + shift) as u64)).expect("fits");
    }
    let path = folder.join(format!("{shift}.gguf"));
    fs::write(&path, writer.finish().expect("complete")).expect("written");
    Arc::new(ModelFiles::open(&path.display().to_string()).expect("a valid model"))
}

fn matrices(files: &ModelFiles) -> Vec<TensorId> {
    files.spec().tensors().into_iter().filter(|id| !id.role.is_vector()).collect()
}

/// The first segment of `source` that differs from the model's bytes, packed in memory.
fn difference(files: &ModelFiles, source: &dyn WeightSource) -> Result<Option<String>, StoreError> {
    for id in matrices(files) {
        let info = files.tensor(id).expect("listed");
        let packing = info.packing();
        let mut bytes = Vec::new();
        files.read(id, 0..info.rows, &mut bytes)?;
        let mut packed = vec![0; packing.bytes()];
        pack(&packing, &bytes, &mut packed);
        let mut rest = &packed[..];
        for (index, segment) in segments(&packing).enumerate() {
            let mut out = AlignedBuffer::new(segment.padded())?;
            out.fill(0xA5);
            source.read_segment(id, index, &mut out)?;
            let (expected, after) = rest.split_at(segment.bytes);
            rest = after;
            let padding = &out[segment.bytes..];
            if out[..segment.bytes] != *expected || padding.iter().any(|&byte| byte != 0) {
                return Ok(Some(format!("{} ({}) {index}", id.gguf_name(), info.dtype)));
            }
        }
        assert!(rest.is_empty());
    }
    Ok(None)
}

fn options() -> CacheOptions {
    CacheOptions {
        bytes_max: u64::MAX,
        threads: 2,
        reading: IoControl::default(),
        building: IoControl::default(),
    }
}

fn build(files: &Arc<ModelFiles>, folder: &Path) -> Result<PackedCache, StoreError> {
    PackedCache::open_or_build(Arc::clone(files), folder, &options(), &mut |_, _| {})
}

fn reading(files: &Arc<ModelFiles>, folder: &Path, plan: Vec<Fault>) -> PackedCache {
    let control = IoControl { faults: Some(Faults::new(plan)), ..IoControl::default() };
    PackedCache::open(Arc::clone(files), folder, control).expect("a good file")
}

fn text<T>(result: Result<T, StoreError>) -> String {
    result.err().expect("an error").to_string()
}

/// Names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().unwrap()).collect()
}

#[test]
fn every_type_has_the_bytes_of_the_files() {
    let folder = tempfile::tempdir().expect("a folder");
    for shift in 0..DType::ALL.len() {
        let files = model(folder.path(), shift);
        let direct = FileWeights::new(Arc::clone(&files), IoControl::default()).expect("opened");
        assert_eq!(difference(&files, &direct).expect("readable"), None, "from the model");
        let (mut seen, mut total) = (Vec::new(), 0);
        let mut progress = |done, all| {
            seen.push(done);
            total = all;
        };
        let cache = PackedCache::open_or_build(
            Arc::clone(&files),
            folder.path(),
            &options(),
            &mut progress,
        );
        let cache = cache.expect("built");
        assert_eq!(difference(&files, &cache).expect("readable"), None, "from the cache");
        assert!(seen.is_sorted() && seen.last() == Some(&total));
        let on_disk = fs::metadata(cache.path()).expect("there").len();
        assert_eq!((on_disk, total), (PackedCache::needed_bytes(&files), on_disk));
        assert_eq!((cache.bytes(), cache.repaired()), (on_disk, 0));
        fs::remove_file(cache.path()).expect("removed");
    }
    let large = Packing::new(DType::F32, 5000, 256);
    assert_eq!(segments(&large).len(), 2, "the models have a matrix of several segments");
}

/// Whole small models of every architecture, in one file, in parts, as a folder.
#[test]
fn every_architecture_is_cached() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["llama", "qwen2", "qwen3", "gemma3"] {
        for file in ["", "model.gguf"] {
            let path = format!("{}/tests/fixtures/tiny/{name}/{file}", env!("CARGO_MANIFEST_DIR"));
            let files = Arc::new(ModelFiles::open(&path).expect("a valid fixture"));
            let cache = build(&files, folder.path()).expect("built");
            assert_eq!(difference(&files, &cache).expect("readable"), None, "{path}");
        }
    }
    assert_eq!(names(folder.path()).len(), 8, "one file a model, no drafts");
}

/// What is in caches that users have. If this fails and the change is meant, raise `VERSION`.
#[test]
fn the_packed_order_has_this_version() {
    let packed = DType::ALL.map(|dtype| {
        let packing = Packing::new(dtype, 24, 512);
        let mut bytes = vec![0; packing.bytes()];
        pack(&packing, &random(24 * dtype.row_bytes(512), 1), &mut bytes);
        bytes
    });
    assert_eq!((VERSION, checksum(&packed.concat())), (1, 4940708280273225399));
}

#[test]
fn files_that_are_not_whole_are_refused_and_built_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let (files, other) = (model(folder.path(), 0), model(folder.path(), 1));
    let path = build(&files, folder.path()).expect("built").path().to_path_buf();
    let other = build(&other, folder.path()).expect("built").path().to_path_buf();
    let good = fs::read(&path).expect("readable");
    let open = || PackedCache::open(Arc::clone(&files), folder.path(), IoControl::default());
    let with = |at: usize, bytes: &[u8]| {
        let mut damaged = good.clone();
        damaged[at..at + bytes.len()].copy_from_slice(bytes);
        damaged
    };
    let bad = [
        ("length", Vec::new()),
        ("length", good[..good.len() - 4096].to_vec()),
        ("length", [&good[..], &[0; 4096]].concat()),
        ("first bytes", with(0, b"GGUF")),
        ("version", with(8, &[9])),
        ("bytes of an entry", with(12, &[9])),
        ("fingerprint", with(16, b"?")),
        ("number of segments", with(80, &u64::MAX.to_le_bytes())),
        ("length", with(88, &u64::MAX.to_le_bytes())),
        ("checksum of the table", with(96, &[0; 8])),
        ("checksum of the table", with(128, &u64::MAX.to_le_bytes())),
        ("checksum of the table", with(4095, &[1])),
        ("", fs::read(other).expect("readable")),
        ("first bytes", vec![0; good.len()]),
        ("first bytes", random(good.len(), 7)),
    ];
    for (at, bytes) in bad {
        fs::write(&path, bytes).expect("written");
        let error = text(open());
        assert!(error.contains(&format!("packed: {at}")), "{error}");
        assert!(error.contains("expected") && error.contains("delete it") && error.len() < 600);
        let cache = build(&files, folder.path()).expect("built again");
        assert_eq!(difference(&files, &cache).expect("readable"), None);
    }
    assert!(fs::read(&path).expect("readable") == good, "two builds give the same file");
}

#[test]
fn a_table_with_its_own_checksum_is_still_compared() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = model(folder.path(), 0);
    let path = build(&files, folder.path()).expect("built").path().to_path_buf();
    let mut bytes = fs::read(&path).expect("readable");
    bytes[128] ^= 1;
    let sum = checksum(&bytes[128..Layout::of(&files).header_bytes]);
    bytes[96..104].copy_from_slice(&sum.to_le_bytes());
    fs::write(&path, bytes).expect("written");
    let error = text(PackedCache::open(files, folder.path(), IoControl::default()));
    assert!(error.contains("a segment: expected Entry { offset: 4096"), "{error}");
}

#[test]
fn a_budget_is_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = model(folder.path(), 0);
    let disk = folder.path().join("disk");
    let needed = PackedCache::needed_bytes(&files);
    let limited = |bytes_max| {
        let options = CacheOptions { bytes_max, ..options() };
        PackedCache::open_or_build(Arc::clone(&files), &disk, &options, &mut |_, _| {})
    };
    let error = text(limited(needed - 1));
    let wanted =
        format!("needs {needed} bytes and {} are allowed, 1 bytes are missing", needed - 1);
    assert!(error.contains(&wanted) && error.contains("--disk"), "{error}");
    assert!(!disk.exists());
    limited(needed).expect("built");
    // What is there costs nothing more.
    limited(0).expect("opened");
    let memory = PackedCache::build_memory_bytes(&files, 2);
    assert!((4 << 20..16 << 20).contains(&memory), "{memory}");
}

/// What a killed build leaves would otherwise keep every later one from its room.
#[cfg(unix)]
#[test]
fn what_was_left_half_built_is_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = model(folder.path(), 0);
    let held = || PackedCache::held_bytes(folder.path(), &files);
    assert_eq!(held(), 0);
    let path = PackedCache::path_in(folder.path(), &files);
    fs::write(path.with_added_extension("draft"), random(1 << 20, 5)).expect("written");
    assert!(held() >= 1 << 20, "{}", held());
    let cache = build(&files, folder.path()).expect("taken over");
    assert!(held() >= cache.bytes(), "{} of {}", held(), cache.bytes());
    assert_eq!(names(folder.path()).len(), 2, "the model and its cache");
}

/// Locks belong to an opened file, so threads stand for processes here.
#[test]
fn many_that_build_at_once_share_one_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = model(folder.path(), 3);
    let disk = folder.path().join("disk");
    // What a killed process left: taken over, however long it is.
    fs::create_dir(&disk).expect("made");
    let draft = PackedCache::path_in(&disk, &files).with_added_extension("draft");
    fs::write(draft, random(9 << 20, 1)).expect("written");
    let built = std::thread::scope(|scope| {
        let one = || {
            let mut built = 0;
            let mut progress = |_, _| built = 1;
            let opened =
                PackedCache::open_or_build(Arc::clone(&files), &disk, &options(), &mut progress);
            assert_eq!(difference(&files, &opened.expect("built")).expect("readable"), None);
            built
        };
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(one)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum::<usize>()
    });
    assert_eq!((built, names(&disk).len()), (1, 1));
}

#[test]
fn a_build_that_fails_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = model(folder.path(), 0);
    let disk = folder.path().join("disk");
    let failing = |fault| {
        let building = IoControl { faults: Some(Faults::new(vec![fault])), ..IoControl::default() };
        let options = CacheOptions { building, ..options() };
        PackedCache::open_or_build(Arc::clone(&files), &disk, &options, &mut |_, _| {})
    };
    let always = Fault { kind: FaultKind::Error, first: 3, count: ALWAYS };
    let error = text(failing(always));
    assert!(error.contains("packed.draft: cannot write"), "{error}");
    assert_eq!(names(&disk), [""; 0]);
    let once = Fault { kind: FaultKind::Error, first: 3, count: 1 };
    let cache = failing(once).expect("built");
    assert_eq!(difference(&files, &cache).expect("readable"), None);
}

#[test]
fn a_disk_that_fails_once_or_is_slow_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = model(folder.path(), 0);
    drop(build(&files, folder.path()).expect("built"));
    let slow = FaultKind::Slow(Duration::from_millis(10));
    for fault in [
        Fault { kind: FaultKind::Short, first: 0, count: ALWAYS },
        Fault { kind: FaultKind::Error, first: 4, count: 1 },
        Fault { kind: FaultKind::Flip(99), first: 4, count: 1 },
        Fault { kind: slow, first: 1, count: 5 },
    ] {
        let start = Instant::now();
        let cache = reading(&files, folder.path(), vec![fault]);
        assert_eq!(difference(&files, &cache).expect("readable"), None, "{fault:?}");
        assert_eq!(cache.repaired(), 0, "{fault:?}");
        if fault.kind == slow {
            assert!(start.elapsed() >= Duration::from_millis(50));
        }
    }
}

#[test]
fn a_disk_that_fails_for_good_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = model(folder.path(), 0);
    let path = build(&files, folder.path()).expect("built").path().display().to_string();
    let always = Fault { kind: FaultKind::Error, first: 1, count: ALWAYS };
    let cache = reading(&files, folder.path(), vec![always]);
    let error = text(difference(&files, &cache));
    let id = matrices(&files)[0];
    assert_eq!(id, TensorId::global(Role::Embedding));
    let layout = Layout::of(&files);
    let slot = layout.slots[layout.find(id, 0).expect("the head")];
    let wanted =
        format!("{path}: cannot read {} bytes at offset {}: ", slot.segment.padded(), slot.offset);
    assert!(error.starts_with(&wanted) && error.contains("check the disk"), "{error}");
}

#[test]
fn damage_is_seen_and_repaired_from_the_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = model(folder.path(), 0);
    let path = build(&files, folder.path()).expect("built").path().to_path_buf();
    let segments = Layout::of(&files).slots.len() as u64;
    let flip = Fault { kind: FaultKind::Flip(12345), first: 1, count: ALWAYS };
    let cache = reading(&files, folder.path(), vec![flip]);
    assert_eq!(difference(&files, &cache).expect("readable"), None);
    assert_eq!(cache.repaired(), segments);
    let mut bytes = fs::read(&path).expect("readable");
    let last = bytes.len() - 1;
    bytes[last] ^= 0x80;
    fs::write(&path, bytes).expect("written");
    let cache = reading(&files, folder.path(), Vec::new());
    assert_eq!(difference(&files, &cache).expect("readable"), None);
    assert_eq!(cache.repaired(), 1);
}

/// The wrapper for what sits above the store: nothing is tried again, nothing is checked.
#[test]
fn a_faulty_source_fails_as_planned() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = model(folder.path(), 0);
    let faulty = |kind| {
        let plan = Faults::new(vec![Fault { kind, first: 2, count: 1 }]);
        let source = FileWeights::new(Arc::clone(&files), IoControl::default()).expect("opened");
        difference(&files, &Faulty::new(source, plan))
    };
    let (error, short) = (text(faulty(FaultKind::Error)), text(faulty(FaultKind::Short)));
    assert!(error.contains("blk.0.attn_q.weight (segment 0): cannot read"), "{error}");
    assert!(short.contains("blk.0.attn_q.weight (segment 0): cannot read"), "{short}");
    let flipped = faulty(FaultKind::Flip(77)).expect("readable").expect("a difference");
    assert!(flipped.starts_with("blk.0.attn_q.weight"), "{flipped}");
    assert_eq!(faulty(FaultKind::Slow(Duration::from_millis(1))).expect("readable"), None);
}
