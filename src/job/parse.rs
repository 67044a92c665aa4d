//! A line to a task: OpenAI Batch lines, `{"prompt"}` and `{"messages"}` lines, plain text.

use super::fields::{FieldError, Fields, plain, preview, string};
use super::limits::*;
use super::lines::RawLine;
use super::{Defaults, Endpoint, InputFormat, LineError, Task, prompt, rules};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};

/// Names of unknown fields remembered, so that a warning comes once.
const WARNED_MAX: usize = 1000;

/// What lines are read against.
#[derive(Clone, Debug)]
pub struct ParseConfig {
    /// Shape of the lines.
    pub format: InputFormat,
    /// What silent lines get.
    pub defaults: Defaults,
    /// Size of the vocabulary: bounds token ids in prompts and logit_bias.
    pub vocab: usize,
    /// What `model` may say without a warning: the model's names.
    pub model_names: Vec<String>,
}

/// Memory for each line whose custom_id is remembered, while the table of them grows.
pub const LINE_BYTES: u64 = 53;

/// Reads lines. Remembers 16 bytes per custom_id (a hash and its line) to find duplicates; nothing
/// else grows with the file.
#[derive(Debug)]
pub struct Parser {
    config: ParseConfig,
    seen: HashMap<u64, u64>,
    warned: HashSet<String>,
    silent: bool,
}

impl Parser {
    /// A parser at the start of a file.
    pub fn new(config: ParseConfig) -> Parser {
        Parser { config, seen: HashMap::new(), warned: HashSet::new(), silent: false }
    }

    /// A parser that warns of nothing: for a look at lines that are parsed again later.
    pub(super) fn silent(config: ParseConfig) -> Parser {
        Parser { silent: true, ..Parser::new(config) }
    }

    /// The task of a line that is not blank.
    pub(super) fn parse(&mut self, line: &RawLine) -> Result<Task, LineError> {
        if self.config.format == InputFormat::Auto {
            let object = line.bytes.trim_ascii_start().starts_with(b"{");
            self.config.format = if object { InputFormat::Jsonl } else { InputFormat::Text };
        }
        let number = line.number;
        if line.is_cut() {
            let message = format!("{} bytes, and {LINE_BYTES_MAX} are allowed", line.length);
            return Err(self.unreadable(line, "line_too_long", message));
        }
        let text = match std::str::from_utf8(&line.bytes) {
            Ok(text) => text,
            Err(error) => {
                let message = format!("not valid UTF-8 at byte {}", error.valid_up_to() + 1);
                return Err(self.unreadable(line, "invalid_utf8", message));
            }
        };
        if self.config.format == InputFormat::Text {
            let custom_id = self.register(number, format!("line-{number}"))?;
            let fields = Fields::default();
            let prompts = vec![super::Prompt::Text(text.to_string())];
            let task = self.task(number, &custom_id, Endpoint::Completions, prompts, &fields);
            return task.map_err(|error| line_error(number, Some(custom_id), error));
        }
        let fields: Fields<'_> = match serde_json::from_str(text) {
            Ok(fields) => fields,
            Err(error) => {
                let (what, column) = (plain(&error), error.column());
                let message = match error.classify() {
                    serde_json::error::Category::Data => what,
                    _ => format!("not valid JSON: {what} at column {column}"),
                };
                return Err(self.unreadable(line, "invalid_json", message));
            }
        };
        self.object(number, &fields)
    }

    fn object(&mut self, number: u64, fields: &Fields<'_>) -> Result<Task, LineError> {
        let has = |names: &[&str]| names.iter().any(|name| fields.get(name).is_some());
        // Rows of data sets may have a url beside their prompt.
        let batch = self.config.format == InputFormat::Batch
            || has(&["body"])
            || (has(&["url", "method"]) && !has(&["prompt", "messages"]));
        let custom_id = match custom_id(fields) {
            Ok(Some(custom_id)) => custom_id,
            Ok(None) if !batch => format!("line-{number}"),
            Ok(None) => {
                let message = "missing; every line of a batch file needs its own".to_string();
                let mut error = FieldError::invalid("custom_id", message);
                error.code = "missing_custom_id";
                return Err(line_error(number, None, error));
            }
            Err(error) => return Err(line_error(number, None, error)),
        };
        let custom_id = self.register(number, custom_id)?;
        let task = if batch {
            self.batch(number, &custom_id, fields)
        } else {
            self.bare(number, &custom_id, fields)
        };
        task.map_err(|error| line_error(number, Some(custom_id), error))
    }

    /// `{"custom_id", "method", "url", "body"}`.
    fn batch(&mut self, line: u64, id: &str, fields: &Fields<'_>) -> Result<Task, FieldError> {
        for name in fields.names() {
            if !["custom_id", "method", "url", "body"].contains(&name) {
                self.warn_once(line, name);
            }
        }
        let told = |name: &str, expected: &str| {
            let raw = fields.get(name).unwrap_or("nothing");
            FieldError::mismatch(name, expected, raw)
        };
        // Decoded first: some writers escape slashes.
        if fields.get("method").is_some() && fields.text("method") != Some("POST".into()) {
            return Err(told("method", "\"POST\""));
        }
        let endpoint = match fields.text("url").as_deref() {
            Some("/v1/chat/completions") => Endpoint::Chat,
            Some("/v1/completions") => Endpoint::Completions,
            _ => return Err(told("url", "\"/v1/chat/completions\" or \"/v1/completions\"")),
        };
        let body = fields.get("body");
        let body = body.ok_or_else(|| FieldError::mismatch("body", "an object", "nothing"))?;
        let body = Fields::parse(body, "body")?;
        self.request(line, id, endpoint, &body)
    }

    /// `{"prompt", ...}` or `{"messages", ...}`.
    fn bare(&mut self, line: u64, id: &str, fields: &Fields<'_>) -> Result<Task, FieldError> {
        let endpoint = match (fields.get("prompt"), fields.get("messages")) {
            (Some(_), None) => Endpoint::Completions,
            (None, Some(_)) => Endpoint::Chat,
            (Some(_), Some(_)) => {
                return Err(FieldError::invalid("prompt", "given beside messages; one of the two"));
            }
            (None, None) => {
                let message = "missing; a line has a prompt, messages, or a url and a body";
                return Err(FieldError::invalid("prompt", message));
            }
        };
        self.request(line, id, endpoint, fields)
    }

    fn request(
        &mut self,
        line: u64,
        id: &str,
        endpoint: Endpoint,
        body: &Fields<'_>,
    ) -> Result<Task, FieldError> {
        for name in body.names() {
            if !rules::is_known(name) && name != "custom_id" {
                self.warn_once(line, name);
            }
        }
        let model = body.string("model")?;
        if let Some(model) = model
            && !self.config.model_names.iter().any(|name| name.eq_ignore_ascii_case(&model))
            && !self.silent
            && self.warned.insert("\0model".to_string())
        {
            let ours = self.config.model_names.first().map_or("another", String::as_str);
            let asked = preview(&model);
            tracing::warn!("line {line} asks for model {asked}; every line is answered by {ours}");
        }
        let (field, missing) = match endpoint {
            Endpoint::Chat => ("messages", "a list of messages"),
            Endpoint::Completions => ("prompt", "a string, token ids, or a list of either"),
        };
        let raw = body.get(field);
        let raw = raw.ok_or_else(|| FieldError::mismatch(field, missing, "nothing"))?;
        let prompts = match endpoint {
            Endpoint::Chat => vec![prompt::messages(raw)?],
            Endpoint::Completions => prompt::prompts(raw, self.config.vocab)?,
        };
        self.task(line, id, endpoint, prompts, body)
    }

    fn task(
        &self,
        line: u64,
        id: &str,
        endpoint: Endpoint,
        prompts: Vec<super::Prompt>,
        body: &Fields<'_>,
    ) -> Result<Task, FieldError> {
        let defaults = &self.config.defaults;
        let n = body.integer("n", 1, CHOICES_MAX)?.unwrap_or(1) as u32;
        rules::check_supported(body, n)?;
        let mut sampling = defaults.sampling.clone();
        for (name, range, value) in [
            ("temperature", TEMPERATURE, &mut sampling.temperature),
            ("top_p", TOP_P, &mut sampling.top_p),
            ("min_p", MIN_P, &mut sampling.min_p),
            ("repetition_penalty", REPETITION_PENALTY, &mut sampling.repetition_penalty),
            ("frequency_penalty", FREQUENCY_PENALTY, &mut sampling.frequency_penalty),
            ("presence_penalty", PRESENCE_PENALTY, &mut sampling.presence_penalty),
        ] {
            if let Some(given) = body.number(name, range)? {
                *value = given;
            }
        }
        if let Some(top_k) = body.integer("top_k", -1, i128::from(i32::MAX))? {
            sampling.top_k = top_k.max(0) as usize;
        }
        sampling.logit_bias = logit_bias(body, self.config.vocab)?;
        sampling.seed = match body.integer("seed", i64::MIN.into(), u64::MAX.into())? {
            Some(seed) => seed as u64,
            None => derive_seed(defaults.sampling.seed, id),
        };
        let tokens = |name| body.integer(name, 1, i128::from(i32::MAX));
        let (newer, older) = (tokens("max_completion_tokens")?, tokens("max_tokens")?);
        let silent = if endpoint == Endpoint::Completions { Some(16) } else { None };
        let given = newer.or(older).map(|count| count as usize);
        Ok(Task {
            line,
            custom_id: id.to_string(),
            endpoint,
            prompts,
            sampling,
            n,
            max_tokens: given.or(defaults.max_tokens).or(silent),
            stop: stops(body)?.unwrap_or_else(|| defaults.stop.clone()),
            ignore_eos: body.boolean("ignore_eos")?
                || (defaults.ignore_eos && body.get("ignore_eos").is_none()),
            return_token_ids: body.boolean("return_token_ids")?,
        })
    }

    /// An error for a line that can't be read; its custom_id is looked for all the same.
    fn unreadable(&mut self, line: &RawLine, code: &'static str, message: String) -> LineError {
        let salvaged = match self.config.format {
            InputFormat::Text => Some(format!("line-{}", line.number)),
            _ => salvage_custom_id(&line.bytes),
        };
        let custom_id = salvaged.and_then(|id| self.register(line.number, id).ok());
        line_error(line.number, custom_id, FieldError { code, param: None, message })
    }

    /// Takes note of an id; an error if a line before has it.
    fn register(&mut self, line: u64, custom_id: String) -> Result<String, LineError> {
        let digest = Sha256::digest(custom_id.as_bytes());
        match self.seen.insert(first_u64(&digest), line) {
            None => Ok(custom_id),
            Some(first) => {
                self.seen.insert(first_u64(&digest), first);
                let id = preview(&custom_id);
                let mut error =
                    FieldError::invalid("custom_id", format!("{id:?} was used on line {first}"));
                error.code = "duplicate_custom_id";
                // Without the id: it names the first line's answer alone.
                Err(line_error(line, None, error))
            }
        }
    }

    fn warn_once(&mut self, line: u64, name: &str) {
        if !self.silent && self.warned.len() < WARNED_MAX && self.warned.insert(preview(name)) {
            tracing::warn!("line {line}: unknown field {:?} is ignored (said once)", preview(name));
        }
    }
}

fn line_error(line: u64, custom_id: Option<String>, error: FieldError) -> LineError {
    let message = format!("line {line}: {}", error.message);
    LineError { line, custom_id, code: error.code, param: error.param, message }
}

fn custom_id(fields: &Fields<'_>) -> Result<Option<String>, FieldError> {
    let Some(custom_id) = fields.string("custom_id")? else { return Ok(None) };
    match custom_id.len() {
        0 => Err(FieldError::invalid("custom_id", "is empty")),
        1..=CUSTOM_ID_BYTES_MAX => Ok(Some(custom_id)),
        length => {
            let message = format!("{length} bytes, and {CUSTOM_ID_BYTES_MAX} are allowed");
            Err(FieldError::invalid("custom_id", message))
        }
    }
}

/// The custom_id of a broken line, if it can be made out.
fn salvage_custom_id(bytes: &[u8]) -> Option<String> {
    let key = b"\"custom_id\"";
    let at = bytes.windows(key.len()).position(|window| window == key)?;
    // A quote that is escaped belongs to a text.
    if at > 0 && bytes[at - 1] == b'\\' {
        return None;
    }
    let rest = bytes[at + key.len()..].trim_ascii_start().strip_prefix(b":")?;
    let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<String>();
    values.next()?.ok().filter(|id| (1..=CUSTOM_ID_BYTES_MAX).contains(&id.len()))
}

fn logit_bias(body: &Fields<'_>, vocab: usize) -> Result<Vec<(u32, f32)>, FieldError> {
    let Some(raw) = body.get("logit_bias") else { return Ok(Vec::new()) };
    let map = Fields::parse(raw, "logit_bias")?;
    let mut biases = Vec::new();
    let mut names: Vec<&str> = map.names().collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let token = name.parse::<u32>().ok().filter(|&token| (token as usize) < vocab);
        let token = token.ok_or_else(|| {
            let message = format!("{:?} is not a token id of {vocab}", preview(name));
            FieldError::invalid("logit_bias", message)
        })?;
        let bias = map
            .number(name, BIAS)
            .map_err(|error| FieldError::invalid("logit_bias", error.message))?;
        biases.push((token, bias.unwrap_or(0.0)));
    }
    Ok(biases)
}

fn stops(body: &Fields<'_>) -> Result<Option<Vec<String>>, FieldError> {
    let Some(raw) = body.get("stop") else { return Ok(None) };
    let expected = "a string or a list of strings";
    let stops = if raw.starts_with('[') {
        serde_json::from_str(raw).map_err(|_| FieldError::mismatch("stop", expected, raw))?
    } else {
        vec![string(raw, "stop", expected)?]
    };
    check_stops(&stops).map_err(|message| FieldError::invalid("stop", message))?;
    Ok(Some(stops))
}

/// Bounds of stop strings; the error text says what is allowed.
pub fn check_stops(stops: &[String]) -> Result<(), String> {
    if stops.len() > STOPS_MAX {
        return Err(format!("{} strings, and {STOPS_MAX} are allowed", stops.len()));
    }
    if stops.iter().any(|stop| stop.is_empty() || stop.len() > STOP_BYTES_MAX) {
        return Err(format!("each string has 1 to {STOP_BYTES_MAX} bytes"));
    }
    Ok(())
}

/// The seed of a request that names none: from the job's seed and the request's id, so that it does
/// not depend on the order of lines.
fn derive_seed(job_seed: u64, custom_id: &str) -> u64 {
    let mut hash = Sha256::new();
    hash.update(b"forebay request seed");
    hash.update(job_seed.to_le_bytes());
    hash.update(custom_id.as_bytes());
    first_u64(&hash.finalize())
}

fn first_u64(digest: &[u8]) -> u64 {
    digest[..8].iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}
