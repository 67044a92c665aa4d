//! Token ids of real models against those llama.cpp gives (`tests/golden/`).

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::PathBuf;
use std::time::Instant;

use forebay::tokenizer::{ChatMessage, GgufVocab, Special, Tokenizer, TokenizerSource};
use serde_json::Value;

const MODELS: [&str; 4] =
    ["smollm2-135m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b", "gemma3-270m"];

/// Gemma's turn markers; the file of the base model has no template.
const GEMMA_TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}\
    {{ '<start_of_turn>' + message['role'] + '\n' + message['content'] | trim \
    + '<end_of_turn>\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}";

/// Where models lie; None (and a line saying so) if this one does not.
fn model_path(name: &str) -> Option<PathBuf> {
    let var = |key| std::env::var_os(key).map(PathBuf::from);
    let cache = || var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache")));
    let folder = var("FOREBAY_MODELS").or_else(|| Some(cache()?.join("forebay/models")))?;
    let path = folder.join(format!("{name}.gguf"));
    if path.exists() {
        return Some(path);
    }
    let required = std::env::var("FOREBAY_MODELS_REQUIRED").is_ok_and(|value| value == "1");
    assert!(!required, "{} is missing", path.display());
    eprintln!("skipped: {} is missing", path.display());
    None
}

fn tokenizer(name: &str) -> Option<Tokenizer> {
    let mut vocab = read_vocab(&model_path(name)?);
    vocab.chat_template.get_or_insert_with(|| GEMMA_TEMPLATE.to_owned());
    let source = TokenizerSource::Gguf(Box::new(vocab));
    let start = Instant::now();
    let tokenizer = Tokenizer::new(&source).unwrap();
    eprintln!("{name}: built in {:?}", start.elapsed());
    Some(tokenizer)
}

fn golden(name: &str) -> Vec<Value> {
    let path = format!("{}/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_reader(BufReader::new(File::open(path).unwrap())).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn golden_texts_encode_and_decode() {
    for name in MODELS {
        let Some(tokenizer) = tokenizer(name) else { continue };
        for entry in golden(name) {
            let text = entry["text"].as_str().unwrap();
            let encoded = tokenizer.encode(text, Special::Parse).unwrap();
            assert_eq!(encoded, ids(&entry["tokens"]), "{name}: {text:?}");
            assert_eq!(tokenizer.decode(&encoded), text, "{name}");
            let greedy = ids(&entry["greedy_tokens"]);
            let expected = entry["greedy_text"].as_str().unwrap();
            assert_eq!(tokenizer.decode(&greedy), expected, "{name}: after {text:?}");
        }
    }
}

#[test]
fn conversations_encode_as_the_rendered_template() {
    let contents = [
        "You are terse.",
        "  What is 2 + 2?\n\n",
        "a < b && c > d |> f [x] </p>\t\tend",
        "naïve café — “quotes” 東京タワー 🚀\n\n\n   indented\r\n",
        "",
    ];
    for name in MODELS {
        let Some(tokenizer) = tokenizer(name) else { continue };
        for system in [true, false] {
            let roles = ["system", "user", "assistant", "user", "assistant"];
            let all = roles.iter().zip(contents).map(|(role, content)| ChatMessage {
                role: (*role).to_owned(),
                content: content.to_owned(),
            });
            let messages: Vec<_> = all.skip(usize::from(!system)).collect();
            let rendered = tokenizer.render_chat(&messages).unwrap();
            let expected = tokenizer.encode(&rendered, Special::Parse).unwrap();
            assert_eq!(tokenizer.encode_chat(&messages).unwrap(), expected, "{name}");
        }
    }
}

#[test]
fn every_control_token_in_a_message_stays_text() {
    for name in MODELS {
        let Some(tokenizer) = tokenizer(name) else { continue };
        let control: Vec<u32> = (0..tokenizer.vocab_len() as u32)
            .filter(|&id| tokenizer.piece(id).is_empty() && !tokenizer.token_text(id).is_empty())
            .filter(|&id| !tokenizer.token_text(id).starts_with("[PAD"))
            .collect();
        assert!(control.len() > 10, "{name}: {}", control.len());
        let count = |ids: &[u32]| ids.iter().filter(|id| control.contains(id)).count();
        let ask = |content: String| {
            let message = ChatMessage { role: "user".to_owned(), content };
            tokenizer.encode_chat(&[message]).unwrap()
        };
        let harmless = count(&ask("hello".to_owned()));
        let forged: String =
            control.iter().take(300).map(|&id| tokenizer.token_text(id) + "\nx").collect();
        let ids = ask(forged.clone());
        assert_eq!(count(&ids), harmless, "{name}");
        assert!(tokenizer.decode(&ids).contains(&forged[..forged.len() - 2]), "{name}");
        assert_eq!(count(&tokenizer.encode(&forged, Special::Plain).unwrap()), 0, "{name}");
    }
}

#[test]
fn end_tokens_are_known() {
    let expected = [("smollm2-135m", vec![0, 2, 4]), ("gemma3-270m", vec![1, 106])];
    for (name, ends) in expected {
        let Some(tokenizer) = tokenizer(name) else { continue };
        assert_eq!(tokenizer.end_ids(), ends, "{name}");
    }
    let Some(qwen) = tokenizer("qwen2.5-coder-0.5b") else { return };
    assert!(qwen.is_end(151_643) && qwen.is_end(151_645) && !qwen.is_end(151_644));
}

/// A GGUF header, as far as tokenizers are concerned.
fn read_vocab(path: &std::path::Path) -> GgufVocab {
    let mut file = BufReader::new(File::open(path).unwrap());
    let mut head = [0; 24];
    file.read_exact(&mut head).unwrap();
    assert_eq!(&head[..4], b"GGUF");
    let count = u64::from_le_bytes(head[16..24].try_into().unwrap());
    let mut vocab = GgufVocab::default();
    for _ in 0..count {
        let key = read_text(&mut file);
        let kind = read_u32(&mut file);
        let mut value = read_value(&mut file, kind);
        let mut one = || value.pop().unwrap();
        match key.strip_prefix("tokenizer.").unwrap_or("") {
            "ggml.model" => vocab.model = one().text(),
            "ggml.pre" => vocab.pre = Some(one().text()),
            "ggml.tokens" => vocab.tokens = value.into_iter().map(Item::text).collect(),
            "ggml.merges" => vocab.merges = value.into_iter().map(Item::text).collect(),
            "ggml.scores" => {
                vocab.scores = value.iter().map(|v| f32::from_bits(v.bits())).collect()
            }
            "ggml.token_type" => {
                vocab.token_types = value.iter().map(|v| v.bits() as i32).collect();
            }
            "ggml.bos_token_id" => vocab.bos = Some(one().bits()),
            "ggml.eos_token_id" => vocab.eos = Some(one().bits()),
            "ggml.eot_token_id" => vocab.eot = Some(one().bits()),
            "ggml.unknown_token_id" => vocab.unknown = Some(one().bits()),
            "ggml.add_bos_token" => vocab.add_bos = Some(one().bits() != 0),
            "ggml.add_eos_token" => vocab.add_eos = Some(one().bits() != 0),
            "ggml.add_space_prefix" => vocab.add_space_prefix = Some(one().bits() != 0),
            "chat_template" => vocab.chat_template = Some(one().text()),
            _ => {}
        }
    }
    vocab
}

enum Item {
    Text(String),
    Bits(u32),
}

impl Item {
    fn text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Bits(_) => panic!("not a text"),
        }
    }

    fn bits(&self) -> u32 {
        match self {
            Self::Bits(bits) => *bits,
            Self::Text(_) => panic!("not a number"),
        }
    }
}

fn read_value(file: &mut impl Read, kind: u32) -> Vec<Item> {
    if kind != 9 {
        return vec![read_item(file, kind)];
    }
    let kind = read_u32(file);
    (0..read_u64(file)).map(|_| read_item(file, kind)).collect()
}

fn read_item(file: &mut impl Read, kind: u32) -> Item {
    let mut bytes = [0; 8];
    let size = match kind {
        8 => return Item::Text(read_text(file)),
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        _ => 8,
    };
    file.read_exact(&mut bytes[..size]).unwrap();
    Item::Bits(u32::from_le_bytes(bytes[..4].try_into().unwrap()))
}

fn read_u32(file: &mut impl Read) -> u32 {
    let mut bytes = [0; 4];
    file.read_exact(&mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

fn read_u64(file: &mut impl Read) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact(&mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

fn read_text(file: &mut impl Read) -> String {
    let mut bytes = vec![0; read_u64(file) as usize];
    file.read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}
