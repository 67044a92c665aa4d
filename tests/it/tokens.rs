//! Token ids of real models against those llama.cpp gives (`tests/golden/`).

use crate::support::{MODELS, fixture, model_path};
use forebay::store::ModelFiles;
use forebay::tokenizer::{ChatMessage, Special, Tokenizer, TokenizerSource};
use serde_json::Value;
use std::fs;

/// Gemma's turn markers; the file of the base model has no template.
const GEMMA_TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}\
    {{ '<start_of_turn>' + message['role'] + '\n' + message['content'] | trim \
    + '<end_of_turn>\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}";

fn tokenizer(name: &str) -> Option<Tokenizer> {
    let files = ModelFiles::open(model_path(name)?.to_str().unwrap()).unwrap();
    let mut source = files.tokenizer_source().unwrap();
    if let TokenizerSource::Gguf(vocab) = &mut source {
        vocab.chat_template.get_or_insert_with(|| GEMMA_TEMPLATE.to_owned());
    }
    Some(Tokenizer::new(&source).unwrap())
}

fn golden(name: &str) -> Vec<Value> {
    let text = fs::read_to_string(fixture(&format!("golden/{name}.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
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
