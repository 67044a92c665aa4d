//! Chat templates: Jinja as Hugging Face's `apply_chat_template` runs it.

use std::io::{self, Write};

use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, context};
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use super::chat::ChatMessage;
use super::error::TokenizerError;

/// Most bytes a template may write; a hostile one could write for ever.
const MAX_RENDERED: usize = 1 << 28;

/// Most instructions of a template for a prompt, some hundred times what long chats take.
const FUEL: u64 = 1 << 26;

/// The date templates get when they ask for today's: (year, month, day), a Friday. It is fixed
/// so that a prompt gives the same tokens on every day; this one is the default of the Llama 3
/// templates.
const TODAY: (u32, u32, u32) = (2024, 7, 26);

const NAME: &str = "chat";

/// A compiled template.
#[derive(Debug)]
pub(super) struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
}

impl ChatTemplate {
    /// # Errors
    /// The template is not Jinja, in the interpreter's words.
    pub(super) fn new(source: &str) -> Result<Self, String> {
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", to_json);
        let plain = without_generation_marks(source);
        environment.add_template_owned(NAME, plain).map_err(|error| describe(&error))?;
        Ok(Self { environment, source: source.to_owned() })
    }

    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// The prompt for these messages, ready for the assistant's turn.
    ///
    /// # Errors
    /// The template refuses the messages or writes more than [`MAX_RENDERED`].
    pub(super) fn render(
        &self,
        messages: &[ChatMessage],
        bos: &str,
        eos: &str,
    ) -> Result<String, TokenizerError> {
        let failed = |error: Error| TokenizerError::template(describe(&error));
        let template = self.environment.get_template(NAME).map_err(failed)?;
        let none = Value::from(());
        let values = context! {
            messages => messages,
            bos_token => bos,
            eos_token => eos,
            add_generation_prompt => true,
            tools => none,
            documents => none,
        };
        let mut text = Bounded(Vec::new());
        template.render_captured_to(values, &mut text).map_err(failed)?;
        String::from_utf8(text.0).map_err(|error| TokenizerError::template(error.to_string()))
    }
}

/// The message and its causes.
fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_RENDERED {
            return Err(io::Error::other(format!("writes more than {MAX_RENDERED} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hugging Face marks the assistant's text with a tag of its own, which means nothing here.
fn without_generation_marks(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(end) = rest[start + 2..].find("%}").map(|end| start + end + 4) else { break };
        let tag = &rest[start..end];
        let word = tag[2..tag.len() - 2].trim_matches(['-', '+']).trim();
        result.push_str(&rest[..start]);
        result.push_str(&match word {
            "generation" => tag.replace(word, "if true"),
            "endgeneration" => tag.replace(word, "endif"),
            _ => tag.to_owned(),
        });
        rest = &rest[end..];
    }
    result + rest
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// The part of `strftime` that templates use, for [`TODAY`] at midnight.
fn strftime_now(format: &str) -> String {
    let (year, month, day) = TODAY;
    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        match chars.next() {
            Some('Y') => text += &year.to_string(),
            Some('y') => text += &format!("{:02}", year % 100),
            Some('m') => text += &format!("{month:02}"),
            Some('d') => text += &format!("{day:02}"),
            Some('B') => text += "July",
            Some('b') => text += "Jul",
            Some('A') => text += "Friday",
            Some('a') => text += "Fri",
            Some('H' | 'M' | 'S') => text += "00",
            Some('%') => text.push('%'),
            Some(other) => text.extend(['%', other]),
            None => text.push('%'),
        }
    }
    text
}

/// JSON as Python's `json.dumps` writes it, which models were trained on: spaces after `,` and
/// `:`, nothing escaped for HTML.
fn to_json(value: Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Accepted, and what is done anyway.
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let spaces = " ".repeat(indent.unwrap_or(0).min(16));
    let text = match indent {
        Some(_) => json_with(&value, PrettyFormatter::with_indent(spaces.as_bytes())),
        None => json_with(&value, PythonFormatter),
    };
    text.map(Value::from_safe_string)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, "tojson").with_source(error))
}

fn json_with(value: &Value, formatter: impl Formatter) -> Result<String, serde_json::Error> {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, formatter);
    serde::Serialize::serialize(value, &mut serializer)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        w.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String, TokenizerError> {
        let message = ChatMessage { role: "user".into(), content: " <Hi> ".into() };
        ChatTemplate::new(source).unwrap().render(&[message], "<s>", "</s>")
    }

    #[test]
    fn python_methods_and_functions_work() {
        let source = "{{ bos_token }}{% for m in messages %}\n\
            {% if m['role'].startswith('us') %}\n\
            {{ m.content.strip() | tojson }}{{ strftime_now('%d %b %Y') }}\n  {% endif %}\n\
            {% endfor %}{{ {'a': [1, 2]} | tojson }}{{ {'a': 1} | tojson(indent=2) }}";
        let expected = "<s>\"<Hi>\"26 Jul 2024\n{\"a\": [1, 2]}{\n  \"a\": 1\n}";
        assert_eq!(render(source).unwrap(), expected);
    }

    #[test]
    fn generation_marks_are_ignored() {
        let source = "a {%- generation -%} b {% endgeneration %}c{{ '{%' }}";
        assert_eq!(render(source).unwrap(), "ab c{%");
        assert_eq!(render("{{ '{%}' }}").unwrap(), "{%}");
        assert!(ChatTemplate::new("{%}").is_err());
    }

    #[test]
    fn a_template_can_refuse() {
        let error = render("{{ raise_exception('roles must alternate') }}").unwrap_err();
        assert!(error.to_string().contains("roles must alternate"), "{error}");
        assert!(ChatTemplate::new("{% for %}").is_err());
        let endless =
            "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
        assert!(render(endless).unwrap_err().to_string().contains("fuel"));
    }
}
