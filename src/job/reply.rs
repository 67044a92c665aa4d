//! Result lines, in OpenAI's Batch form.

use super::{Endpoint, LineError, Task};
use crate::generate::FinishReason;
use serde_json::{Value, json};
use std::time::SystemTime;

const ID_PREFIX: &str = "batch_req_";

/// Code of a request for which the model computed no numbers.
pub(super) const UNDEFINED_LOGITS: &str = "undefined_logits";

/// One finished choice.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Choice {
    pub(super) text: String,
    pub(super) tokens: Vec<u32>,
    pub(super) finish: FinishReason,
}

/// The result line of an answered task, line end included. `choices` are in order; `model` is the
/// model's name.
pub(super) fn success(
    task: &Task,
    model: &str,
    prompt_tokens: usize,
    choices: Vec<Choice>,
) -> Vec<u8> {
    let completion_tokens: usize = choices.iter().map(|choice| choice.tokens.len()).sum();
    let choices: Vec<Value> = choices
        .into_iter()
        .enumerate()
        .map(|(index, choice)| choice_value(task, index, choice))
        .collect();
    let (prefix, object) = match task.endpoint {
        Endpoint::Chat => ("chatcmpl", "chat.completion"),
        Endpoint::Completions => ("cmpl", "text_completion"),
    };
    let body = json!({
        "id": format!("{prefix}-{:08}", task.line),
        "object": object,
        "created": seconds_since_1970(),
        "model": model,
        "choices": choices,
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    });
    line(task.line, Some(&task.custom_id), 200, body, Value::Null)
}

fn choice_value(task: &Task, index: usize, choice: Choice) -> Value {
    let finish = match choice.finish {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        // Told as a failure before it comes here.
        FinishReason::Undefined => "error",
    };
    let mut value = match task.endpoint {
        Endpoint::Chat => json!({
            "index": index,
            "message": {"role": "assistant", "content": choice.text, "refusal": null},
        }),
        Endpoint::Completions => json!({"index": index, "text": choice.text}),
    };
    value["logprobs"] = Value::Null;
    value["finish_reason"] = finish.into();
    if task.return_token_ids {
        value["token_ids"] = choice.tokens.into();
    }
    value
}

/// The result line of a failed line: the error stands both where OpenAI's API and where its batch
/// files have it.
pub(super) fn failure(error: &LineError) -> Vec<u8> {
    let own_fault = error.code == UNDEFINED_LOGITS;
    let (status, kind) =
        if own_fault { (500, "server_error") } else { (400, "invalid_request_error") };
    let body = json!({"error": {
        "message": error.message,
        "type": kind,
        "param": error.param,
        "code": error.code,
    }});
    let outer = json!({"code": error.code, "message": error.message});
    line(error.line, error.custom_id.as_deref(), status, body, outer)
}

fn line(number: u64, custom_id: Option<&str>, status: u16, body: Value, error: Value) -> Vec<u8> {
    let value = json!({
        "id": format!("{ID_PREFIX}{number:08}"),
        "custom_id": custom_id,
        "response": {
            "status_code": status,
            "request_id": format!("req_{number:08}"),
            "body": body,
        },
        "error": error,
    });
    let mut bytes = value.to_string().into_bytes();
    bytes.push(b'\n');
    bytes
}

/// The input line that a result's `id` stands for.
pub(super) fn line_of_id(id: &str) -> Option<u64> {
    let digits = id.strip_prefix(ID_PREFIX)?;
    let plain = digits.len() >= 8 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|&line| plain && line > 0)
}

fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_name_their_line() {
        assert_eq!(line_of_id("batch_req_00000012"), Some(12));
        assert_eq!(line_of_id("batch_req_123456789"), Some(123_456_789));
        for id in
            ["batch_req_12", "batch_req_0000001x", "batch_req_00000000", "x", "batch_req_+0000001"]
        {
            assert_eq!(line_of_id(id), None, "{id}");
        }
    }
}
