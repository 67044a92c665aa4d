//! Pre-tokenizers: how a text is cut into words before merging, by the name a GGUF gives.
//! The patterns are those of the models' own tokenizer files; which name means which pattern
//! follows llama.cpp.

use tokenizers::utils::SysRegex;

use super::error::TokenizerError;

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN35: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}",
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const GPT4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const DEEPSEEK3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const SEED_CODER: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const BAILING: &str = concat!(
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
);
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";
const CJK_WIDE: &str = r"[\x{4E00}-\x{9FA5}\x{0800}-\x{4E00}\x{AC00}-\x{D7FF}]+";

/// What one name stands for.
struct Family {
    names: &'static [&'static str],
    /// Applied one after the other, each to the pieces the one before left.
    patterns: &'static [&'static str],
    /// A word that is a token is taken whole, whatever the merges say.
    ignore_merges: bool,
    /// BOS before a prompt unless the file says otherwise.
    add_bos: bool,
}

const fn family(names: &'static [&'static str], patterns: &'static [&'static str]) -> Family {
    Family { names, patterns, ignore_merges: false, add_bos: false }
}

const FAMILIES: &[Family] = &[
    Family {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
        ],
        patterns: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
    },
    Family { names: &["tekken"], patterns: &[TEKKEN], ignore_merges: true, add_bos: true },
    family(&["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], &[LLAMA3]),
    family(
        &["qwen2", "deepseek-r1-qwen", "kormo", "megrez", "stablelm2", "hunyuan", "grok-2"],
        &[QWEN2],
    ),
    family(&["qwen35"], &[QWEN35]),
    family(
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        &[r"\p{N}", GPT2],
    ),
    family(
        &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "exaone4",
        ],
        &[GPT2],
    ),
    family(&["default"], &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"]),
    family(&["falcon"], &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9][0-9][0-9]"]),
    // The letter list of the original is exactly the cased letters.
    family(
        &["deepseek-llm"],
        &[
            r"[\r\n]",
            r"\s?[\p{Lu}\p{Ll}\p{Lt}]+",
            r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+",
            r"\s+$",
            CJK_WIDE,
            r"\p{N}+",
        ],
    ),
    family(&["deepseek-coder"], &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK_WIDE, r"\p{N}"]),
    family(
        &["deepseek-v3", "hunyuan-dense"],
        &[r"\p{N}{1,3}", r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+", DEEPSEEK3],
    ),
    family(&["gpt-4o", "llama4", "minimax-m2"], &[GPT4O]),
    family(&["seed-coder"], &[SEED_CODER]),
    family(&["bailingmoe", "bailingmoe2", "llada-moe"], &[BAILING]),
    family(&["bloom", "poro-chat", "gpt3-finnish"], &[BLOOM]),
    family(&["viking"], &[BLOOM, r"\p{N}"]),
];

/// Cuts text into words.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    patterns: Vec<SysRegex>,
    pub(super) ignore_merges: bool,
    pub(super) add_bos: bool,
}

impl PreTokenizer {
    /// By the value of `tokenizer.ggml.pre`; a file without one gets `default`.
    ///
    /// # Errors
    /// The name is not known.
    pub(super) fn by_name(name: Option<&str>) -> Result<Self, TokenizerError> {
        let name = name.unwrap_or_else(|| {
            tracing::warn!("tokenizer.ggml.pre is missing, using `default`: output may be poor");
            "default"
        });
        let unknown = || {
            let names = FAMILIES.iter().flat_map(|family| family.names);
            let supported = names.copied().collect::<Vec<_>>().join(", ");
            TokenizerError::UnknownPre { pre: name.to_owned(), supported }
        };
        let family = FAMILIES.iter().find(|f| f.names.contains(&name)).ok_or_else(unknown)?;
        let compile = |pattern: &&str| {
            SysRegex::new(pattern).map_err(|error| {
                TokenizerError::vocabulary("tokenizer.ggml.pre", format!("`{name}`: {error}"))
            })
        };
        let patterns = family.patterns.iter().map(compile).collect::<Result<_, _>>()?;
        Ok(Self { patterns, ignore_merges: family.ignore_merges, add_bos: family.add_bos })
    }

    /// The words of a text in order; joined they are the text.
    pub(super) fn words<'a>(&self, text: &'a str) -> Vec<&'a str> {
        let mut words = vec![text];
        for pattern in &self.patterns {
            let mut next = Vec::with_capacity(words.len() * 2);
            for word in words {
                cut(pattern, word, &mut next);
            }
            words = next;
        }
        words
    }
}

/// Matches and the gaps between them both become words.
fn cut<'a>(pattern: &SysRegex, text: &'a str, words: &mut Vec<&'a str>) {
    let mut from = 0;
    for (start, end) in pattern.find_iter(text) {
        if from < start {
            words.push(&text[from..start]);
        }
        if start < end {
            words.push(&text[start..end]);
        }
        from = end;
    }
    if from < text.len() {
        words.push(&text[from..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_compiles_and_loses_nothing() {
        let text = "I'M  naïve 12345,\r\n\n  東京 «x»\t🚀 don't   ";
        for name in FAMILIES.iter().flat_map(|family| family.names) {
            let pre = PreTokenizer::by_name(Some(name)).unwrap();
            assert_eq!(pre.words(text).concat(), text, "{name}");
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let message = PreTokenizer::by_name(Some("nonesuch")).unwrap_err().to_string();
        assert!(message.contains("`nonesuch`") && message.contains("llama-bpe"), "{message}");
    }

    #[test]
    fn digits_are_grouped_as_the_family_says() {
        let words = |name| PreTokenizer::by_name(Some(name)).unwrap().words("a 12345").join("|");
        assert_eq!(words("llama-bpe"), "a| |123|45");
        assert_eq!(words("qwen2"), "a| |1|2|3|4|5");
        assert_eq!(words("gpt-2"), "a| 12345");
        assert_eq!(words("smollm"), "a| |1|2|3|4|5");
    }
}
