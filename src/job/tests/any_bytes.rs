//! Whatever the bytes of an input, nothing panics and every line is answered once.

use super::fake::Folder;
use proptest::prelude::*;

fn piece() -> impl Strategy<Value = Vec<u8>> {
    let shapes: Vec<&[u8]> = vec![
        br#"{"custom_id":"a","prompt":"x"}"#,
        br#"{"prompt":[1,2],"n":2,"temperature":0}"#,
        br#"{"prompt":["a","b"],"echo":true}"#,
        br#"{"messages":[{"role":"user","content":[{"type":"text","text":"q"}]}]}"#,
        br#"{"custom_id":"b","url":"/v1/completions","body":{"prompt":"x","stop":["z"]}}"#,
        b"{\"prompt\":\"\\ud800\"}",
        b"\r",
        b"[[[[",
        b"\xEF\xBB\xBF",
        b"plain text",
    ];
    prop_oneof![
        3 => proptest::sample::select(shapes).prop_map(<[u8]>::to_vec),
        1 => proptest::collection::vec(any::<u8>(), 0..20),
        2 => Just(b"\n".to_vec()),
        1 => (0usize..40).prop_map(|cut| br#"{"custom_id":"c","prompt":"x","seed":1}"#[..cut.min(39)].to_vec()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_line_is_answered_once(pieces in proptest::collection::vec(piece(), 0..30)) {
        let bytes = pieces.concat();
        let folder = Folder::new(&bytes);
        let outcome = folder.run().unwrap();
        let mut expected = Vec::new();
        for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
            let line = if index == 0 { line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line) } else { line };
            if !line.trim_ascii().is_empty() {
                expected.push(format!("batch_req_{:08}", index + 1));
            }
        }
        let results = folder.sorted();
        let ids: Vec<_> = results.iter().map(|value| value["id"].as_str().unwrap()).collect();
        prop_assert_eq!(ids, expected);
        let mut names: Vec<_> =
            results.iter().filter_map(|value| value["custom_id"].as_str()).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        prop_assert_eq!(names.len(), count);
        prop_assert_eq!(outcome.progress.done, results.len() as u64);
    }
}
