//! Round trips, and files that lie.

use super::{GgufHeader, GgufWriter, TensorPlan, Value};
use crate::quant::DType;
use crate::store::MemorySource;
use proptest::prelude::*;

fn metadata() -> Vec<(String, Value)> {
    let nested = Value::Nested(vec![Value::i32s(&[1, -2]), Value::Texts(vec!["x".into()])]);
    [
        ("general.architecture", Value::text("llama")),
        ("a.count", Value::u32(7)),
        ("a.eps", Value::f32(1e-5)),
        ("a.flag", Value::bool(true)),
        ("a.scores", Value::f32s(&[0.5, -1.0])),
        ("a.tokens", Value::Texts(vec!["one".into(), "\u{2581}two".into()])),
        ("a.nested", nested),
    ]
    .map(|(key, value)| (key.to_string(), value))
    .to_vec()
}

fn file() -> Vec<u8> {
    let plans =
        vec![TensorPlan::vector("norm", 5), TensorPlan::matrix("weight", DType::Q8_0, 2, 64)];
    let mut writer = GgufWriter::new(Vec::new(), &metadata(), plans).expect("writes to memory");
    let bytes = writer.file_bytes();
    writer.write(&[1; 20]).expect("fits");
    writer.write(&[2; 68]).expect("half");
    writer.write(&[3; 68]).expect("other half");
    let file = writer.finish().expect("complete");
    assert_eq!(file.len() as u64, bytes);
    file
}

fn read(bytes: Vec<u8>) -> Result<GgufHeader, String> {
    GgufHeader::read(&MemorySource(bytes), "test.gguf").map_err(|e| e.to_string())
}

#[test]
fn what_is_written_is_read() {
    let header = read(file()).expect("valid");
    assert_eq!(header.version, 3);
    assert_eq!(header.metadata, metadata());
    let norm = &header.tensors[0];
    assert_eq!((norm.shape(), norm.bytes), ((1, 5), 20));
    let weight = &header.tensors[1];
    assert_eq!((weight.shape(), weight.dtype()), ((2, 64), Some(DType::Q8_0)));
    assert_eq!(weight.offset, header.data_at + 32);
    assert_eq!(file()[weight.offset as usize..][..68], [2; 68]);
    assert_eq!(header.get("a.count").and_then(Value::as_u64), Some(7));
    assert_eq!(
        header.get("a.tokens").map(Value::display).as_deref(),
        Some("[one, \u{2581}two] (2)")
    );
}

#[test]
fn a_writer_refuses_too_much_and_too_little() {
    let plans = || vec![TensorPlan::vector("norm", 5)];
    let mut writer = GgufWriter::new(Vec::new(), &[], plans()).expect("writes to memory");
    assert!(writer.write(&[0; 21]).is_err());
    let writer = GgufWriter::new(Vec::new(), &[], plans()).expect("writes to memory");
    assert!(writer.finish().is_err());
}

/// Every length of a valid file that is cut short: an error, or (data missing only) never a panic.
#[test]
fn truncated_files_are_refused() {
    let whole = file();
    let end = &read(whole.clone()).expect("valid").tensors[1];
    let end = (end.offset + end.bytes) as usize;
    for len in 0..end {
        let error = read(whole[..len].to_vec()).expect_err("truncated");
        assert!(error.contains("test.gguf"), "{error}");
    }
}

#[test]
fn lies_are_named() {
    let expect = |bytes: Vec<u8>, part: &str| {
        let error = read(bytes).expect_err("refused");
        assert!(error.contains(part), "{error}");
    };
    let with = |at: usize, bytes: &[u8]| {
        let mut file = file();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    expect(with(0, b"GGML"), "expected `GGUF`, found `GGML`");
    expect(with(4, &1u32.to_le_bytes()), "expected 2 or 3");
    expect(with(4, &3u32.to_be_bytes()), "big-endian");
    expect(with(8, &u64::MAX.to_le_bytes()), "number of tensors");
    expect(with(16, &(1u64 << 40).to_le_bytes()), "number of metadata keys");
    expect(with(24, &70_000u64.to_le_bytes()), "at most 65535 bytes");
    // "general.architecture" is 20 bytes long; its value's type follows.
    expect(with(52, &99u32.to_le_bytes()), "key `general.architecture`");
    expect(with(56, &(1u64 << 60).to_le_bytes()), "key `general.architecture`");
    let tensor = |plan: TensorPlan| {
        let mut writer = GgufWriter::new(Vec::new(), &[], vec![plan.clone()]).expect("memory");
        writer.write(&vec![0; plan.bytes() as usize]).expect("fits");
        writer.finish().expect("complete")
    };
    let huge = TensorPlan { name: "t".into(), dtype: DType::F32, dims: vec![4, 4] };
    // Header of 24 bytes, name of 9, dimension count of 4, then the dimensions.
    let mut file = tensor(huge.clone());
    file[37..45].copy_from_slice(&(1u64 << 40).to_le_bytes());
    file[45..53].copy_from_slice(&(1u64 << 40).to_le_bytes());
    expect(file, "tensor `t`");
    let mut file = tensor(huge.clone());
    file[57..65].copy_from_slice(&8u64.to_le_bytes());
    expect(file, "multiple of 32");
    let mut file = tensor(huge);
    file[57..65].copy_from_slice(&(1u64 << 63).to_le_bytes());
    expect(file, "within the file's");
}

#[test]
fn doubled_names_and_deep_arrays_are_refused() {
    let twice = [("k".to_string(), Value::u32(1)), ("k".to_string(), Value::u32(2))];
    let writer = GgufWriter::new(Vec::new(), &twice, vec![]).expect("memory");
    assert!(read(writer.finish().expect("complete")).expect_err("twice").contains("`k` twice"));
    let deep = (0..6).fold(Value::i32s(&[]), |inner, _| Value::Nested(vec![inner]));
    let deep = [("k".to_string(), deep)];
    let writer = GgufWriter::new(Vec::new(), &deep, vec![]).expect("memory");
    assert!(read(writer.finish().expect("complete")).expect_err("deep").contains("nested"));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..600),
        valid: bool,
    ) {
        if valid && bytes.len() > 24 {
            bytes[..8].copy_from_slice(b"GGUF\x03\0\0\0");
            bytes[9..16].fill(0);
            bytes[17..24].fill(0);
        }
        let _ = read(bytes);
    }

    #[test]
    fn flipped_bytes_never_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = file();
        for (index, value) in flips {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(header) = read(bytes.clone()) {
            for tensor in &header.tensors {
                prop_assert!(tensor.offset + tensor.bytes <= bytes.len() as u64);
            }
        }
    }
}
