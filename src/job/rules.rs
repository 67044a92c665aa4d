//! Fields that are known but not acted on: which are ignored, and which would change the answer and
//! are therefore an error unless they ask for nothing.

use super::fields::{FieldError, Fields};

/// Fields of a body that shape the request.
const USED: &[&str] = &[
    "prompt",
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "n",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "ignore_eos",
    "return_token_ids",
    "model",
];

/// Fields that say nothing about the answer.
const IGNORED: &[&str] = &[
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
    "stream_options",
    "request_id",
    "priority",
];

/// Known fields that are not supported, each with the values that ask for nothing (besides null).
const UNSUPPORTED: &[(&str, &[&str])] = &[
    ("logprobs", &["false", "0"]),
    ("top_logprobs", &["0"]),
    ("prompt_logprobs", &["0"]),
    ("echo", &["false"]),
    ("stream", &["false"]),
    ("suffix", &["\"\""]),
    ("tools", &["[]"]),
    ("tool_choice", &["\"none\"", "\"auto\""]),
    ("functions", &["[]"]),
    ("function_call", &["\"none\"", "\"auto\""]),
    ("response_format", &[]),
    ("audio", &[]),
    ("modalities", &["[\"text\"]"]),
    ("prediction", &[]),
    ("reasoning_effort", &[]),
    ("verbosity", &[]),
    ("web_search_options", &[]),
    ("min_tokens", &["0"]),
    ("stop_token_ids", &["[]"]),
    ("bad_words", &["[]"]),
    ("allowed_token_ids", &[]),
    ("length_penalty", &["1", "1.0"]),
    ("use_beam_search", &["false"]),
    ("structured_outputs", &[]),
    ("guided_json", &[]),
    ("guided_regex", &[]),
    ("guided_choice", &[]),
    ("guided_grammar", &[]),
    ("chat_template", &[]),
    ("chat_template_kwargs", &["{}"]),
    ("add_generation_prompt", &["true"]),
    ("continue_final_message", &["false"]),
    ("add_special_tokens", &["true"]),
    ("skip_special_tokens", &["true"]),
    ("include_stop_str_in_output", &["false"]),
];

/// The first known field of `body` that asks for something that is not there yet.
pub(super) fn check_supported(body: &Fields<'_>, n: u32) -> Result<(), FieldError> {
    for (name, harmless) in UNSUPPORTED {
        let Some(raw) = body.get(name) else { continue };
        let compact: String = raw.split_ascii_whitespace().collect();
        if harmless.contains(&compact.as_str()) {
            continue;
        }
        if *name == "response_format" {
            let kind = Fields::parse(raw, name)?.string("type")?;
            match kind.as_deref() {
                Some("text") => continue,
                kind => {
                    let kind = kind.unwrap_or("none");
                    let message = format!("type {kind:?} is not supported yet, only \"text\"");
                    return Err(FieldError::unsupported(name, message));
                }
            }
        }
        let message = format!("not supported yet ({})", super::fields::preview(raw));
        return Err(FieldError::unsupported(name, message));
    }
    let best_of = body.integer("best_of", 0, i128::from(i32::MAX))?;
    match best_of {
        Some(best_of) if best_of > i128::from(n) => {
            let message = format!("{best_of} is more than n ({n}), which is not supported yet");
            Err(FieldError::unsupported("best_of", message))
        }
        _ => Ok(()),
    }
}

/// Whether a field of a body is one of the above.
pub(super) fn is_known(name: &str) -> bool {
    let unsupported = UNSUPPORTED.iter().any(|(known, _)| *known == name);
    unsupported || USED.contains(&name) || IGNORED.contains(&name) || name == "best_of"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str) -> Result<(), String> {
        let body = serde_json::from_str(body).unwrap();
        check_supported(&body, 2).map_err(|error| error.message)
    }

    #[test]
    fn harmless_values_pass() {
        for body in [
            r#"{"logprobs":false,"top_logprobs":0,"echo":null,"stream":false,"suffix":""}"#,
            r#"{"tools":[ ],"modalities":[ "text" ],"response_format":{"type":"text"}}"#,
            r#"{"best_of":2,"user":"me","anything":1}"#,
        ] {
            assert_eq!(check(body), Ok(()), "{body}");
        }
    }

    #[test]
    fn what_would_change_the_answer_is_named() {
        for (body, field) in [
            (r#"{"logprobs":5}"#, "logprobs"),
            (r#"{"logprobs":true}"#, "logprobs"),
            (r#"{"top_logprobs":1}"#, "top_logprobs"),
            (r#"{"echo":true}"#, "echo"),
            (r#"{"tools":[{}]}"#, "tools"),
            (r#"{"tool_choice":"required"}"#, "tool_choice"),
            (r#"{"response_format":{"type":"json_object"}}"#, "response_format"),
            (r#"{"response_format":{}}"#, "response_format"),
            (r#"{"response_format":3}"#, "response_format"),
            (r#"{"stream":true}"#, "stream"),
            (r#"{"best_of":3}"#, "best_of"),
            (r#"{"suffix":"end"}"#, "suffix"),
        ] {
            let message = check(body).unwrap_err();
            assert!(message.starts_with(field), "{body}: {message}");
        }
    }
}
