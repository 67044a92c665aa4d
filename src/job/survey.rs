//! How long the requests of a file are, before any is answered: what a plan is made for.

use super::learned::Learned;
use super::limits::LINE_BYTES_MAX;
use super::lines::Lines;
use super::parse::Parser;
use super::{Encode, Input, JobError, Message, ParseConfig, Prompt, Task};
use std::fs::File;
use std::io::BufReader;

/// Requests that are tokenized; of larger files every n-th.
const SAMPLES_MAX: u64 = 512;

/// Tokens of a text beside its bytes: those put before it and after it, and the space that some tokenizers
/// begin with.
const TEXT_MORE: usize = 3;

/// Tokens of a message beside its bytes, and of a chat beside what its template says anyway: with room to
/// spare.
const MESSAGE_MORE: usize = 32;
const CHAT_MORE: usize = 128;

/// Requests of one line, or of a run of lines for which it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Tokens of a prompt.
    pub prompt: usize,
    /// Most tokens that may be generated.
    pub output_max: usize,
    /// Whether generation goes on past end tokens, so that it reaches `output_max`.
    pub fixed: bool,
    /// Sequences of these lengths.
    pub count: usize,
}

/// What a file asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Survey {
    /// In the order of the file.
    pub requests: Vec<Lengths>,
    /// Positions of the longest sequence: exact for prompts that were tokenized; others are taken to have a
    /// token for each byte, and those around a text.
    pub longest: usize,
    /// What is known of output lengths.
    pub learned: Learned,
    /// Part of the sequences that take the likeliest token, 0 to 1.
    pub greedy: f64,
    /// Lines of the whole file that get an answer: the id of each is remembered.
    pub lines: u64,
}

impl Survey {
    /// The same without the first `done` sequences.
    pub fn after(&self, done: usize) -> Survey {
        let mut done = done;
        let left = |lengths: &Lengths| {
            let gone = lengths.count.min(done);
            done -= gone;
            Lengths { count: lengths.count - gone, ..*lengths }
        };
        let requests = self.requests.iter().map(left).filter(|lengths| lengths.count > 0).collect();
        Survey { requests, ..self.clone() }
    }

    /// Tokens of all answers, expected from what is `known`.
    pub fn outputs(&self, known: &Learned) -> usize {
        self.requests.iter().map(|r| r.count * known.output(r.output_max, r.fixed)).sum()
    }
}

/// Reads a file of prompts for the lengths of its requests; `None` for a pipe, which can't be read
/// twice. Bad lines count for nothing; memory grows by `LINE_BYTES` a line and no more.
pub fn survey(
    input: &Input,
    config: ParseConfig,
    encoder: &dyn Encode,
    context_len: usize,
) -> Result<Option<Survey>, JobError> {
    let (Some(path), Some(digest)) = (input.path(), input.digest()) else { return Ok(None) };
    let fail = |source| JobError::Input { path: input.name().to_string(), source };
    let mut lines = Lines::new(BufReader::new(File::open(path).map_err(fail)?), LINE_BYTES_MAX);
    let mut parser = Parser::silent(config);
    let stride = digest.requests.div_ceil(SAMPLES_MAX).max(1);
    let template = template_tokens(encoder);
    let mut survey = Survey::default();
    let mut index = 0;
    let (mut greedy, mut all) = (0, 0);
    while let Some(line) = lines.next_line().map_err(fail)? {
        if line.is_blank() {
            continue;
        }
        let sampled = index % stride == 0;
        index += 1;
        let Ok(task) = parser.parse(&line) else { continue };
        let sequences = task.prompts.len() * task.n as usize;
        all += sequences;
        greedy += if task.sampling.temperature <= 0.0 { sequences } else { 0 };
        for prompt in &task.prompts {
            let tokens = match sampled {
                true => encoder.encode(prompt).map_or(0, |ids| ids.len()),
                false => tokens_at_most(prompt, template),
            };
            let lengths = lengths(&task, tokens, context_len);
            survey.longest = survey.longest.max(lengths.prompt + lengths.output_max);
            if sampled {
                let count = lengths.count * stride as usize;
                survey.requests.push(Lengths { count, ..lengths });
            }
        }
    }
    survey.lines = digest.requests;
    survey.greedy = greedy as f64 / all.max(1) as f64;
    Ok(Some(survey))
}

fn lengths(task: &Task, tokens: usize, context_len: usize) -> Lengths {
    let prompt = tokens.min(context_len - 1);
    let room = context_len - prompt;
    let output_max = task.max_tokens.map_or(room, |count| count.min(room));
    Lengths { prompt, output_max, fixed: task.ignore_eos, count: task.n as usize }
}

/// Tokens that the chat template makes of messages that say nothing: some templates bring a prompt of their
/// own. 0 without a template.
fn template_tokens(encoder: &dyn Encode) -> usize {
    let tokens = |roles: &[&str]| {
        let silent = |role: &&str| Message { role: (*role).to_string(), content: String::new() };
        let chat = Prompt::Chat(roles.iter().map(silent).collect());
        encoder.encode(&chat).map_or(0, |ids| ids.len())
    };
    tokens(&["user"]).max(tokens(&["system", "user"]))
}

/// Tokens of a prompt at most, a token for each byte; `template` of them are the chat template's.
fn tokens_at_most(prompt: &Prompt, template: usize) -> usize {
    match prompt {
        Prompt::Text(text) => text.len() + TEXT_MORE,
        Prompt::Tokens(ids) => ids.len(),
        Prompt::Chat(messages) => {
            let of = |m: &Message| m.role.len() + m.content.len() + MESSAGE_MORE;
            template + CHAT_MORE + messages.iter().map(of).sum::<usize>()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Defaults, InputFormat};
    use std::fmt::Write as _;

    struct Words;

    impl Encode for Words {
        fn encode(&self, prompt: &Prompt) -> Result<Vec<u32>, String> {
            let Prompt::Text(text) = prompt else { return Err("text only".into()) };
            Ok(text.split(' ').map(|_| 0).collect())
        }
    }

    /// Sentencepiece at its worst, and a template with much to say.
    struct Worst;

    impl Encode for Worst {
        fn encode(&self, prompt: &Prompt) -> Result<Vec<u32>, String> {
            let count = match prompt {
                Prompt::Text(text) => 2 + text.len(),
                Prompt::Tokens(ids) => ids.len(),
                Prompt::Chat(messages) => {
                    1000 + messages.iter().map(|m| 20 + m.content.len()).sum::<usize>()
                }
            };
            Ok(vec![0; count])
        }
    }

    #[test]
    fn no_prompt_has_more_tokens_than_it_is_taken_for() {
        let message = |content: &str| Message { role: "user".into(), content: content.into() };
        for prompt in [
            Prompt::Text("a".into()),
            Prompt::Tokens(vec![1, 2]),
            Prompt::Chat(vec![message("hi")]),
            Prompt::Chat((0..50).map(|_| message("more than that")).collect()),
        ] {
            let most = tokens_at_most(&prompt, template_tokens(&Worst));
            assert!(most >= Worst.encode(&prompt).unwrap().len(), "{prompt:?}: {most}");
        }
        assert_eq!(template_tokens(&Words), 0);
    }

    fn look(text: &str) -> Survey {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.jsonl");
        std::fs::write(&path, text).unwrap();
        let input = Input::open(path.to_str().unwrap(), InputFormat::Auto).unwrap();
        let (format, model_names) = (input.format(), Vec::new());
        let config = ParseConfig { format, defaults: Defaults::default(), vocab: 10, model_names };
        survey(&input, config, &Words, 100).unwrap().unwrap()
    }

    #[test]
    fn lengths_are_those_of_the_lines() {
        let text = "{\"prompt\": \"a b c\", \"max_tokens\": 7}\n\nnot json\n\
                    {\"prompt\": \"a b\", \"max_tokens\": 500, \"n\": 2, \"ignore_eos\": true}\n";
        let survey = look(text);
        let first = Lengths { prompt: 3, output_max: 7, fixed: false, count: 1 };
        let second = Lengths { prompt: 2, output_max: 98, fixed: true, count: 2 };
        assert_eq!((&survey.requests[..], survey.longest), (&[first, second][..], 100));
        assert_eq!(survey.outputs(&Learned::default()), 7 + 2 * 98);
        let last = Lengths { count: 1, ..second };
        assert_eq!(survey.after(2).requests, [last]);
        assert_eq!(survey.after(9).requests, []);
    }

    #[test]
    fn large_files_are_sampled_and_the_longest_is_never_missed() {
        let mut text = String::new();
        for i in 0..2000 {
            let words = if i == 1001 { "word ".repeat(15) } else { "a b".to_string() };
            writeln!(text, "{{\"prompt\": \"{words}\", \"max_tokens\": 4}}").unwrap();
        }
        let survey = look(&text);
        assert_eq!(survey.requests.iter().map(|r| r.count).sum::<usize>(), 2000);
        assert!(survey.requests.len() <= 512 && survey.longest >= 16 + 4);
    }
}
