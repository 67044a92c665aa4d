//! A byte-level BPE vocabulary of any size: the bytes, then pairs and fours of English letters in the
//! rough order of their frequency, then padding. English text comes to two or three bytes a token.

use super::SynthError;
use crate::model::Hparams;
use crate::store::gguf::Value;
use crate::tokenizer::BYTE_CHARS;

/// Letters by their frequency in English.
const LETTERS: &str = "etaoinshrdlcumwfgypbvkjxqz";
const CONTROL: [&str; 4] = ["<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const VOCAB_MIN: usize = BYTE_CHARS.len() + CONTROL.len();
/// The largest published vocabularies have a quarter of this.
const VOCAB_MAX: usize = 1 << 20;

const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + \
    message['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}\
    {{ '<|im_start|>assistant\n' }}{% endif %}";

/// Values of `tokenizer.ggml.token_type`.
const NORMAL: i32 = 1;
const CONTROL_KIND: i32 = 3;
const UNUSED: i32 = 5;

/// Refuses a vocabulary that can't be made.
pub(super) fn check(hparams: &Hparams) -> Result<(), SynthError> {
    if (VOCAB_MIN..=VOCAB_MAX).contains(&hparams.vocab) {
        return Ok(());
    }
    let (shape, found) = (hparams.name.clone(), hparams.vocab);
    Err(SynthError::Vocabulary { shape, found, least: VOCAB_MIN, most: VOCAB_MAX })
}

/// Appends the `tokenizer.*` keys of a vocabulary of `vocab` tokens, which passed [`check`].
pub(super) fn put(vocab: usize, keys: &mut Vec<(String, Value)>) {
    let merged = vocab - VOCAB_MIN;
    let mut tokens: Vec<String> = BYTE_CHARS.iter().map(char::to_string).collect();
    let mut merges = Vec::new();
    let space = BYTE_CHARS[usize::from(b' ')];
    let letters: Vec<String> = LETTERS.chars().map(String::from).collect();
    let first: Vec<String> = std::iter::once(space.to_string()).chain(letters.clone()).collect();
    let pairs = pairs(&first, &letters).collect::<Vec<_>>();
    let joined = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| format!("{a}{b}")).collect();
    let starts: Vec<String> = joined(&pairs);
    let ends: Vec<String> = starts.iter().filter(|s| !s.starts_with(space)).cloned().collect();
    for (left, right) in pairs.into_iter().chain(self::pairs(&starts, &ends)).take(merged) {
        tokens.push(format!("{left}{right}"));
        merges.push(format!("{left} {right}"));
    }
    let mut kinds = vec![NORMAL; tokens.len()];
    tokens.extend((tokens.len()..vocab - CONTROL.len()).map(|id| format!("[PAD{id}]")));
    kinds.resize(tokens.len(), UNUSED);
    tokens.extend(CONTROL.map(String::from));
    kinds.resize(tokens.len(), CONTROL_KIND);
    let control = |index: usize| Value::u32((vocab - CONTROL.len() + index) as u32);
    let ggml = [
        ("model", Value::text("gpt2")),
        ("pre", Value::text("llama-bpe")),
        ("tokens", Value::Texts(tokens)),
        ("token_type", Value::i32s(&kinds)),
        ("merges", Value::Texts(merges)),
        ("bos_token_id", control(0)),
        ("eos_token_id", control(1)),
        ("eot_token_id", control(3)),
        ("padding_token_id", control(1)),
        ("add_bos_token", Value::bool(true)),
    ];
    keys.extend(ggml.map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)));
    keys.push(("tokenizer.chat_template".to_string(), Value::text(CHAT_TEMPLATE)));
}

/// All pairs of the two lists, by the sum of their ranks.
fn pairs<'a>(left: &'a [String], right: &'a [String]) -> impl Iterator<Item = (&'a str, &'a str)> {
    (0..left.len() + right.len()).flat_map(move |sum| {
        let ranks = sum.saturating_sub(right.len() - 1)..left.len().min(sum + 1);
        ranks.map(move |rank| (left[rank].as_str(), right[sum - rank].as_str()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::{ChatMessage, GgufVocab, Special, Tokenizer, TokenizerSource};

    fn tokenizer(vocab: usize) -> Tokenizer {
        let mut keys = Vec::new();
        put(vocab, &mut keys);
        let get = |key: &str| {
            let name = format!("tokenizer.{key}");
            &keys.iter().find(|(key, _)| *key == name).expect("written").1
        };
        let id = |key: &str| get(key).as_u64().map(|id| id as u32);
        let text = |key: &str| get(key).as_str().map(str::to_string);
        let source = GgufVocab {
            model: text("ggml.model").expect("text"),
            pre: text("ggml.pre"),
            tokens: get("ggml.tokens").texts().expect("texts").to_vec(),
            token_types: get("ggml.token_type")
                .integers()
                .expect("integers")
                .iter()
                .map(|&k| k as i32)
                .collect(),
            merges: get("ggml.merges").texts().expect("texts").to_vec(),
            bos: id("ggml.bos_token_id"),
            eos: id("ggml.eos_token_id"),
            eot: id("ggml.eot_token_id"),
            chat_template: text("chat_template"),
            ..GgufVocab::default()
        };
        Tokenizer::new(&TokenizerSource::Gguf(Box::new(source))).expect("valid")
    }

    #[test]
    fn texts_of_every_kind_come_back() {
        let text = "The quick brown fox — naïve 東京 🚀 jumps\n\n over 1234 <|im_end|> dogs.";
        // The last has more tokens than pairs of pairs.
        for vocab in [VOCAB_MIN, 300, 5000, 151_936, 480_000] {
            let tokenizer = tokenizer(vocab);
            assert_eq!(tokenizer.vocab_len(), vocab);
            let ids = tokenizer.encode(text, Special::Plain).expect("encodes");
            assert_eq!(tokenizer.decode(&ids), text, "{vocab}");
            assert!(ids.iter().all(|&id| (id as usize) < vocab));
        }
    }

    #[test]
    fn english_is_compressed_and_merged_tokens_are_text() {
        let text =
            "the people who live in this house are not at home, and there is nothing to be done";
        let tokenizer = tokenizer(128_256);
        let ids = tokenizer.encode(text, Special::Plain).expect("encodes");
        assert!(ids.len() * 2 < text.len(), "{} tokens", ids.len());
        assert!((0..128_252).all(|id| !tokenizer.piece(id).is_empty()));
        assert_eq!(tokenizer.end_ids(), [128_253, 128_255]);
        let message = ChatMessage { role: "user".into(), content: "Hi".into() };
        let chat = tokenizer.encode_chat(&[message]).expect("has a template");
        assert_eq!(chat[..2], [128_252, 128_254]);
        assert_eq!(tokenizer.decode(&chat), "user\nHi\nassistant\n");
    }

    #[test]
    fn pairs_are_all_there_once() {
        let list = |texts: &[&str]| texts.iter().map(|t| t.to_string()).collect::<Vec<_>>();
        let (left, right) = (list(&["a", "b", "c"]), list(&["x", "y"]));
        let found: Vec<String> = pairs(&left, &right).map(|(a, b)| format!("{a}{b}")).collect();
        assert_eq!(found, ["ax", "ay", "bx", "by", "cx", "cy"]);
    }
}
