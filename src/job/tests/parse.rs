//! Each rule of lines.

use super::super::lines::RawLine;
use super::super::*;
use super::fake::config;

fn raw(number: u64, text: &[u8]) -> RawLine {
    RawLine { number, bytes: text.to_vec(), length: text.len() as u64, ended: true }
}

fn parse(text: &str) -> Result<Task, LineError> {
    Parser::new(config(InputFormat::Jsonl)).parse(&raw(5, text.as_bytes()))
}

fn task(text: &str) -> Task {
    parse(text).unwrap_or_else(|error| panic!("{text}: {}", error.message))
}

fn error(text: &str) -> LineError {
    parse(text).expect_err(text)
}

fn with(field: &str) -> String {
    format!(r#"{{"custom_id":"a","prompt":"x",{field}}}"#)
}

#[test]
fn batch_lines_of_both_endpoints() {
    let chat = task(
        r#"{"custom_id":"r1","method":"POST","url":"/v1/chat/completions","body":{"model":"m",
        "messages":[{"role":"user","content":"Hi"}],"max_tokens":32,"temperature":0,"seed":1,
        "stop":["\n"]}}"#,
    );
    assert_eq!((chat.endpoint, chat.custom_id.as_str()), (Endpoint::Chat, "r1"));
    assert_eq!((chat.max_tokens, chat.sampling.temperature), (Some(32), 0.0));
    assert_eq!((chat.sampling.seed, chat.stop), (1, vec!["\n".to_string()]));
    let body = r#"{"custom_id":"r2","url":"/v1/completions","body":{"prompt":["a","b"],"n":3}}"#;
    let completion = task(body);
    assert_eq!((completion.prompts.len(), completion.n), (2, 3));
    assert_eq!(completion.max_tokens, Some(16));
    // Some writers escape slashes, or more.
    let escaped = task(
        r#"{"custom_id":"r3","method":"\u0050OST","url":"\/v1\/chat\/completions",
        "body":{"messages":[{"role":"us\u0065r","content":"x"}]}}"#,
    );
    assert_eq!(escaped.endpoint, Endpoint::Chat);
}

#[test]
fn bare_lines_need_no_id() {
    let row = task(r#"{"prompt":"x","url":"https://example.org","method":"crawl"}"#);
    assert_eq!((row.endpoint, row.custom_id.as_str()), (Endpoint::Completions, "line-5"));
    assert_eq!(task(r#"{"prompt":"x"}"#).custom_id, "line-5");
    let chat = task(r#"{"custom_id":"c","messages":[{"role":"user","content":"x"}]}"#);
    assert_eq!((chat.endpoint, chat.custom_id.as_str()), (Endpoint::Chat, "c"));
    assert_eq!(chat.max_tokens, None);
}

#[test]
fn text_lines_are_prompts() {
    let mut parser = Parser::new(config(InputFormat::Auto));
    let first = parser.parse(&raw(1, b"Once upon")).unwrap();
    assert_eq!(first.prompts, [Prompt::Text("Once upon".to_string())]);
    assert_eq!(first.custom_id, "line-1");
    // The first line decided: this is text too.
    let second = parser.parse(&raw(2, b"{\"prompt\":1}")).unwrap();
    assert_eq!(second.prompts, [Prompt::Text("{\"prompt\":1}".to_string())]);
    let broken = parser.parse(&raw(3, b"\xff")).unwrap_err();
    assert_eq!(broken.custom_id.as_deref(), Some("line-3"));
    assert_eq!(broken.code, "invalid_utf8");
}

#[test]
fn silent_fields_get_defaults_and_derived_seeds() {
    let (a, b) =
        (task(r#"{"custom_id":"a","prompt":"x"}"#), task(r#"{"custom_id":"b","prompt":"x"}"#));
    assert_eq!((a.sampling.temperature, a.sampling.top_p), (1.0, 1.0));
    assert_ne!(a.sampling.seed, b.sampling.seed);
    let mut other = config(InputFormat::Jsonl);
    other.defaults.sampling.seed = 9;
    other.defaults.sampling.temperature = 0.5;
    other.defaults.max_tokens = Some(7);
    other.defaults.stop = vec!["END".to_string()];
    let line = raw(90, br#"{"custom_id":"a","prompt":"x"}"#);
    let c = Parser::new(other).parse(&line).unwrap();
    assert_ne!(a.sampling.seed, c.sampling.seed);
    assert_eq!((c.sampling.temperature, c.max_tokens), (0.5, Some(7)));
    assert_eq!(c.stop, ["END"]);
    // Line numbers and other fields don't matter.
    let line = raw(90, br#"{"prompt":"y","n":2,"custom_id":"a"}"#);
    let again = Parser::new(config(InputFormat::Jsonl)).parse(&line).unwrap();
    assert_eq!(a.sampling.seed, again.sampling.seed);
}

#[test]
fn every_sampling_field_is_taken() {
    let task = task(&with(
        r#""max_tokens":3,"max_completion_tokens":4,"temperature":0.5,"top_p":0.9,"top_k":-1,
        "min_p":0.1,"seed":-1,"stop":"x","n":2,"repetition_penalty":1.5,"frequency_penalty":-2,
        "presence_penalty":2,"logit_bias":{"5":-100,"6":1.5},"ignore_eos":true,
        "return_token_ids":true,"model":"other","user":"u","unknown":1"#,
    ));
    assert_eq!(task.max_tokens, Some(4));
    let sampling = &task.sampling;
    assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k), (0.5, 0.9, 0));
    assert_eq!((sampling.min_p, sampling.seed, task.n), (0.1, u64::MAX, 2));
    assert_eq!((sampling.repetition_penalty, sampling.frequency_penalty), (1.5, -2.0));
    assert_eq!(sampling.presence_penalty, 2.0);
    assert_eq!(sampling.logit_bias, [(5, -100.0), (6, 1.5)]);
    assert_eq!(task.stop, ["x"]);
    assert!(task.ignore_eos && task.return_token_ids);
}

#[test]
fn bad_values_name_field_value_and_range() {
    for (field, message) in [
        (r#""temperature":-1"#, "temperature: expected a number from 0 to 2, got -1"),
        (r#""temperature":"hot""#, "temperature: expected a number from 0 to 2, got \"hot\""),
        (r#""top_p":1.5"#, "top_p: expected a number from 0 to 1, got 1.5"),
        (r#""top_k":1.5"#, "top_k: expected an integer from -1 to 2147483647, got 1.5"),
        (r#""min_p":-0.1"#, "min_p: expected a number from 0 to 1, got -0.1"),
        (
            r#""repetition_penalty":0"#,
            "repetition_penalty: expected a number above 0 up to 100, got 0",
        ),
        (r#""max_tokens":0"#, "max_tokens: expected an integer from 1 to 2147483647, got 0"),
        (r#""max_tokens":"5""#, "max_tokens: expected an integer from 1 to 2147483647, got \"5\""),
        (r#""n":0"#, "n: expected an integer from 1 to 128, got 0"),
        (r#""seed":0.5"#, "seed: expected an integer from -9223372036854775808"),
        (r#""stop":5"#, "stop: expected a string or a list of strings, got 5"),
        (r#""stop":[5]"#, "stop: expected a string or a list of strings, got [5]"),
        (r#""stop":"""#, "stop: each string has 1 to 1024 bytes"),
        (r#""logit_bias":[1]"#, "logit_bias: expected an object, got [1]"),
        (r#""logit_bias":{"x":1}"#, "logit_bias: \"x\" is not a token id of 1000"),
        (r#""logit_bias":{"1000":1}"#, "logit_bias: \"1000\" is not a token id of 1000"),
        (r#""logit_bias":{"1":101}"#, "logit_bias: 1: expected a number from -100 to 100, got 101"),
        (r#""ignore_eos":1"#, "ignore_eos: expected true or false, got 1"),
        (r#""model":3"#, "model: expected a string, got 3"),
        (r#""echo":true"#, "echo: not supported yet (true)"),
    ] {
        let error = error(&with(field));
        assert!(error.message.starts_with(&format!("line 5: {message}")), "{}", error.message);
        assert_eq!(error.custom_id.as_deref(), Some("a"));
        assert_eq!(error.param.as_deref(), message.split(':').next());
    }
}

#[test]
fn bad_frames_are_explained() {
    for (line, code, part) in [
        ("[1]", "invalid_json", "expected a JSON object"),
        ("nonsense", "invalid_json", "not valid JSON"),
        (r#"{"prompt":"x""#, "invalid_json", "at column 13"),
        (r#"{"prompt":"x"} y"#, "invalid_json", "trailing characters at column 16"),
        (r#"{"custom_id":"a"}"#, "invalid_value", "prompt: missing"),
        (r#"{"custom_id":7,"prompt":"x"}"#, "invalid_value", "custom_id: expected a string, got 7"),
        (r#"{"custom_id":"","prompt":"x"}"#, "invalid_value", "custom_id: is empty"),
        (r#"{"prompt":"x","messages":[]}"#, "invalid_value", "beside messages"),
        (r#"{"prompt":""}"#, "empty_prompt", "prompt: the prompt is empty"),
        (r#"{"url":"/v1/completions","body":{}}"#, "missing_custom_id", "custom_id: missing"),
        (r#"{"custom_id":"a","url":"/v1/x","body":{}}"#, "invalid_value", "url: expected"),
        (r#"{"custom_id":"a","body":{}}"#, "invalid_value", "url: expected"),
        (r#"{"custom_id":"a","url":"/v1/completions"}"#, "invalid_value", "body: expected"),
        (
            r#"{"custom_id":"a","url":"/v1/completions","body":3}"#,
            "invalid_value",
            "body: expected",
        ),
        (
            r#"{"custom_id":"a","url":"/v1/completions","body":{}}"#,
            "invalid_value",
            "prompt: expected",
        ),
        (
            r#"{"custom_id":"a","url":"/v1/chat/completions","body":{"prompt":"x"}}"#,
            "invalid_value",
            "messages: expected",
        ),
        (
            r#"{"custom_id":"a","method":"GET","url":"/v1/completions","body":{}}"#,
            "invalid_value",
            "method: expected",
        ),
    ] {
        let error = error(line);
        assert!(error.message.contains(part), "{line}: {}", error.message);
        assert!(error.message.starts_with("line 5: "), "{}", error.message);
        assert_eq!(error.code, code, "{line}");
    }
}

#[test]
fn batch_format_takes_batch_lines_only() {
    let mut parser = Parser::new(config(InputFormat::Batch));
    let error = parser.parse(&raw(1, br#"{"custom_id":"a","prompt":"x"}"#)).unwrap_err();
    assert!(error.message.contains("url: expected"), "{}", error.message);
    let error = parser.parse(&raw(2, br#"{"prompt":"x"}"#)).unwrap_err();
    assert_eq!((error.code, error.custom_id), ("missing_custom_id", None));
}

#[test]
fn doubles_lose_their_id() {
    let mut parser = Parser::new(config(InputFormat::Jsonl));
    let line = br#"{"custom_id":"a","prompt":"x"}"#;
    parser.parse(&raw(1, line)).unwrap();
    for number in 2..4 {
        let error = parser.parse(&raw(number, line)).unwrap_err();
        assert_eq!((error.code, &error.custom_id), ("duplicate_custom_id", &None));
        let message = format!("line {number}: custom_id: \"a\" was used on line 1");
        assert_eq!(error.message, message);
    }
}

#[test]
fn broken_lines_keep_their_id_where_it_can_be_read() {
    let id = |bytes: &[u8]| {
        let error = Parser::new(config(InputFormat::Jsonl)).parse(&raw(1, bytes)).unwrap_err();
        error.custom_id
    };
    assert_eq!(id(br#"{"custom_id": "a\n","prompt":"x"#).as_deref(), Some("a\n"));
    assert_eq!(id(b"{\"custom_id\":\"b\",\"prompt\":\"\xff\"}").as_deref(), Some("b"));
    assert_eq!(id(br#"{"prompt":"\"custom_id\": \"c\""#), None);
    assert_eq!(id(br#"{"custom_id":"#), None);
    assert_eq!(id(br#"{"custom_id":5"#), None);
    let mut long = raw(1, br#"{"custom_id":"d","prompt":"xxx"#);
    long.length = 100 << 20;
    let error = Parser::new(config(InputFormat::Jsonl)).parse(&long).unwrap_err();
    assert_eq!((error.code, error.custom_id.as_deref()), ("line_too_long", Some("d")));
    assert!(error.message.contains("104857600 bytes, and 16777216 are allowed"));
}
