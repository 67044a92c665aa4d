//! The prompt of a line: text, token ids, lists of either, or chat messages.

use super::fields::{FieldError, Fields, plain, string};
use super::limits::PROMPTS_MAX;
use super::{Message, Prompt};
use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// Most messages of a chat and most parts of a message.
const MESSAGES_MAX: usize = 65_536;

/// `prompt`: a string, token ids, or a list of either. `vocab` bounds token ids.
pub(super) fn prompts(raw: &str, vocab: usize) -> Result<Vec<Prompt>, FieldError> {
    let prompts = match serde_json::from_str::<Prompts>(raw) {
        Ok(Prompts(prompts)) => prompts,
        Err(error) => return Err(FieldError::invalid("prompt", plain(&error))),
    };
    let many = prompts.len() > 1 || raw.starts_with("[[") || raw.starts_with("[\"");
    for (index, prompt) in prompts.iter().enumerate() {
        let param = if many { format!("prompt[{index}]") } else { "prompt".to_string() };
        let tokens: &[u32] = match prompt {
            Prompt::Text(text) if text.is_empty() => return Err(empty(&param)),
            Prompt::Tokens(tokens) if tokens.is_empty() => return Err(empty(&param)),
            Prompt::Tokens(tokens) => tokens,
            _ => continue,
        };
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocab) {
            let last = vocab.saturating_sub(1);
            let message = format!("token id {token} is not in the vocabulary (0 to {last})");
            return Err(FieldError::invalid(&param, message));
        }
    }
    if prompts.is_empty() {
        return Err(empty("prompt"));
    }
    Ok(prompts)
}

fn empty(param: &str) -> FieldError {
    let message = format!("{param}: the prompt is empty");
    FieldError { code: "empty_prompt", param: Some(param.to_string()), message }
}

/// `messages`: roles and text.
pub(super) fn messages(raw: &str) -> Result<Prompt, FieldError> {
    let list = list(raw, "messages")?;
    if list.is_empty() {
        return Err(empty("messages"));
    }
    let messages = list.iter().enumerate().map(|(index, raw)| message(raw.get(), index));
    Ok(Prompt::Chat(messages.collect::<Result<_, _>>()?))
}

fn message(raw: &str, index: usize) -> Result<Message, FieldError> {
    let param = |name: &str| format!("messages[{index}].{name}");
    let fields = Fields::parse(raw, &format!("messages[{index}]"))?;
    for name in ["tool_calls", "function_call", "audio", "tool_call_id"] {
        if fields.get(name).is_some_and(|raw| raw != "[]") {
            return Err(FieldError::unsupported(&param(name), "not supported yet"));
        }
    }
    let role = match fields.text("role").as_deref() {
        Some("user") => "user",
        Some("assistant") => "assistant",
        // The newer name of the same; chat templates know only the older.
        Some("system" | "developer") => "system",
        Some(role @ ("tool" | "function")) => {
            let message = format!("\"{role}\" is not supported yet");
            return Err(FieldError::unsupported(&param("role"), message));
        }
        _ => {
            let expected = "\"system\", \"developer\", \"user\" or \"assistant\"";
            let found = fields.get("role").unwrap_or("null");
            return Err(FieldError::mismatch(&param("role"), expected, found));
        }
    };
    let name = param("content");
    let content = match fields.get("content") {
        Some(raw) if raw.starts_with('[') => parts(raw, &name)?,
        Some(raw) => string(raw, &name, "a string or a list of text parts")?,
        None => {
            return Err(FieldError::mismatch(&name, "a string or a list of text parts", "null"));
        }
    };
    Ok(Message { role: role.to_string(), content })
}

/// Text parts, joined by line ends.
fn parts(raw: &str, param: &str) -> Result<String, FieldError> {
    let mut content = String::new();
    for (index, raw) in list(raw, param)?.iter().enumerate() {
        let param = format!("{param}[{index}]");
        let part = Fields::parse(raw.get(), &param)?;
        let kind = part.get("type").unwrap_or("null");
        if kind != "\"text\"" {
            let message =
                format!("type {} is not supported, only \"text\"", super::fields::preview(kind));
            return Err(FieldError::unsupported(&param, message));
        }
        let text = part.get("text").unwrap_or("null");
        if index > 0 {
            content.push('\n');
        }
        content.push_str(&string(text, &format!("{param}.text"), "a string")?);
    }
    Ok(content)
}

fn list<'a>(raw: &'a str, param: &str) -> Result<Vec<&'a RawValue>, FieldError> {
    let list: Vec<&RawValue> =
        serde_json::from_str(raw).map_err(|_| FieldError::mismatch(param, "a list", raw))?;
    if list.len() > MESSAGES_MAX {
        return Err(FieldError::invalid(param, format!("more than {MESSAGES_MAX} entries")));
    }
    Ok(list)
}

/// A prompt field, folded while it is read: token ids never exist as JSON values.
struct Prompts(Vec<Prompt>);

/// One element of a prompt list.
enum Element {
    Id(u32),
    Text(String),
    Ids(Vec<u32>),
}

impl<'de> Deserialize<'de> for Prompts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Prompts, D::Error> {
        deserializer.deserialize_any(PromptsVisitor)
    }
}

struct PromptsVisitor;

impl<'de> Visitor<'de> for PromptsVisitor {
    type Value = Prompts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a list of strings, a list of token ids, or a list of such lists")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Prompts, E> {
        Ok(Prompts(vec![Prompt::Text(text.to_string())]))
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Prompts, S::Error> {
        let mut ids = Vec::new();
        let mut prompts = Vec::new();
        while let Some(element) = seq.next_element::<Element>()? {
            let alike = matches!(
                (&element, ids.is_empty(), prompts.last()),
                (Element::Id(_), _, None)
                    | (_, true, None)
                    | (Element::Text(_), _, Some(Prompt::Text(_)))
                    | (Element::Ids(_), _, Some(Prompt::Tokens(_)))
            );
            if !alike {
                return Err(de::Error::custom("a list mixes strings, token ids and lists"));
            }
            match element {
                Element::Id(id) => ids.push(id),
                Element::Text(text) => prompts.push(Prompt::Text(text)),
                Element::Ids(list) => prompts.push(Prompt::Tokens(list)),
            }
            if prompts.len() > PROMPTS_MAX {
                return Err(de::Error::custom(format!(
                    "more than {PROMPTS_MAX} prompts in a line"
                )));
            }
        }
        if !ids.is_empty() {
            prompts.push(Prompt::Tokens(ids));
        }
        Ok(Prompts(prompts))
    }
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Element, D::Error> {
        deserializer.deserialize_any(ElementVisitor)
    }
}

struct ElementVisitor;

impl<'de> Visitor<'de> for ElementVisitor {
    type Value = Element;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a token id (an integer from 0) or a list of token ids")
    }

    fn visit_u64<E: de::Error>(self, id: u64) -> Result<Element, E> {
        let unexpected = || E::invalid_value(de::Unexpected::Unsigned(id), &self);
        Ok(Element::Id(u32::try_from(id).map_err(|_| unexpected())?))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Element, E> {
        Ok(Element::Text(text.to_string()))
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Element, S::Error> {
        let mut ids = Vec::new();
        while let Some(id) = seq.next_element::<u32>()? {
            ids.push(id);
        }
        Ok(Element::Ids(ids))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(raw: &str) -> String {
        match prompts(raw, 100) {
            Ok(prompts) => format!("{prompts:?}"),
            Err(error) => error.message,
        }
    }

    #[test]
    fn prompts_come_in_four_shapes() {
        assert_eq!(text(r#""hi""#), r#"[Text("hi")]"#);
        assert_eq!(text(r#"["a","b"]"#), r#"[Text("a"), Text("b")]"#);
        assert_eq!(text("[1,2]"), "[Tokens([1, 2])]");
        assert_eq!(text("[[1],[2,3]]"), "[Tokens([1]), Tokens([2, 3])]");
    }

    #[test]
    fn bad_prompts_are_explained() {
        assert_eq!(text(r#""""#), "prompt: the prompt is empty");
        assert_eq!(text("[]"), "prompt: the prompt is empty");
        assert_eq!(text(r#"["a",""]"#), "prompt[1]: the prompt is empty");
        assert_eq!(text("[[1],[]]"), "prompt[1]: the prompt is empty");
        assert_eq!(text("[7,100]"), "prompt: token id 100 is not in the vocabulary (0 to 99)");
        for (raw, part) in [
            ("3", "expected a string, a list of strings"),
            ("{}", "expected a string, a list of strings"),
            ("[1,\"a\"]", "mixes"),
            ("[\"a\",[1]]", "mixes"),
            ("[[1],2]", "mixes"),
            ("[-1]", "token id"),
            ("[1.5]", "token id"),
            ("[[\"a\"]]", "u32"),
            ("[99999999999]", "token id"),
        ] {
            assert!(text(raw).contains(part), "{raw}: {}", text(raw));
        }
    }

    #[test]
    fn messages_are_strings_or_text_parts() {
        let raw = r#"[{"role":"developer","content":"a"},
            {"role":"user","name":"x","content":[{"type":"text","text":"b"},{"type":"text","text":"c"}]}]"#;
        let Ok(Prompt::Chat(messages)) = messages(raw) else { panic!() };
        assert_eq!((messages[0].role.as_str(), messages[0].content.as_str()), ("system", "a"));
        assert_eq!(messages[1].content, "b\nc");
    }

    #[test]
    fn bad_messages_name_their_place() {
        for (raw, part) in [
            ("[]", "messages: the prompt is empty"),
            ("\"x\"", "messages: expected a list, got \"x\""),
            ("[3]", "messages[0]: expected an object, got 3"),
            (r#"[{"content":"x"}]"#, "messages[0].role: expected \"system\""),
            (r#"[{"role":"robot","content":"x"}]"#, "got \"robot\""),
            (r#"[{"role":"tool","content":"x"}]"#, "messages[0].role: \"tool\" is not supported"),
            (r#"[{"role":"user"}]"#, "messages[0].content: expected a string"),
            (r#"[{"role":"user","content":5}]"#, "messages[0].content: expected a string"),
            (
                r#"[{"role":"user","content":[{"type":"image_url"}]}]"#,
                "messages[0].content[0]: type \"image_url\" is not supported",
            ),
            (
                r#"[{"role":"user","content":[{"type":"text"}]}]"#,
                "messages[0].content[0].text: expected a string, got null",
            ),
        ] {
            let message = messages(raw).unwrap_err().message;
            assert!(message.contains(part), "{raw}: {message}");
        }
    }
}
