//! Drafts without a model: what followed earlier occurrences of the last few tokens (prompt lookup;
//! LLMA, arXiv 2304.04487). Good where an answer repeats its prompt or itself.

use std::collections::HashMap;

/// Bytes that a position of a sequence takes at most, but for moments in which a table grows: its token, and
/// in each of two chains a link and an entry of a table, all in storage that doubles.
pub const LOOKUP_BYTES: u64 = 2 * (4 + 2 * (4 + 20));

/// Tokens of a match that are told apart; longer ones count as this long.
const MATCH_MAX: usize = 8;
/// Tokens of the longer of the two kinds of chains.
const GRAM: usize = 3;
/// Occurrences that a query looks at on each chain, the latest first.
const OCCURRENCES: usize = 32;
/// What an occurrence counts relative to the one after it.
const RECENCY: f64 = 0.9;
/// What an outcome counts after the next one of its length.
const DECAY: f64 = 0.998;
/// Outcomes that the first values of the rates count as.
const PRIOR_WEIGHT: f64 = 5.0;
/// How often the next token followed a match of 1, 2… tokens before, to begin with.
const PRIOR: [f64; MATCH_MAX] = [0.25, 0.4, 0.55, 0.65, 0.72, 0.78, 0.82, 0.86];
/// No occurrence.
const NONE: u32 = u32::MAX;

/// How often matches of each length had the next token among what followed them: fitted online, and
/// shared by the sequences of a job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LookupTrust {
    tries: [f64; MATCH_MAX],
    hits: [f64; MATCH_MAX],
}

impl LookupTrust {
    /// Nothing observed.
    pub fn new() -> LookupTrust {
        LookupTrust::default()
    }

    /// The rate at which a match of `length` tokens, at least 1, has the next token.
    pub fn rate(&self, length: usize) -> f64 {
        let at = length.clamp(1, MATCH_MAX) - 1;
        let (hits, tries) = (self.hits[at].max(0.0), self.tries[at].max(0.0));
        ((hits + PRIOR_WEIGHT * PRIOR[at]) / (tries + PRIOR_WEIGHT)).min(1.0)
    }

    fn observe(&mut self, length: usize, hit: bool) {
        let at = length - 1;
        self.tries[at] = self.tries[at] * DECAY + 1.0;
        self.hits[at] = self.hits[at] * DECAY + f64::from(u8::from(hit));
    }
}

/// An earlier occurrence of the end of a context.
#[derive(Clone, Copy, Debug)]
struct Occurrence {
    /// Tokens that match, up to `MATCH_MAX`.
    length: usize,
    /// The token that followed.
    next: u32,
}

/// Positions with the same last tokens, linked from the latest back.
#[derive(Clone, Debug, Default)]
struct Chain {
    latest: HashMap<u64, u32>,
    /// For each position, the one before it with the same tokens.
    before: Vec<u32>,
}

impl Chain {
    fn push(&mut self, key: Option<u64>) {
        let position = self.before.len() as u32;
        let before = key.and_then(|key| self.latest.insert(key, position));
        self.before.push(before.unwrap_or(NONE));
    }

    fn positions(&self, key: Option<u64>) -> impl Iterator<Item = usize> + '_ {
        let latest = key.and_then(|key| self.latest.get(&key).copied());
        let linked = std::iter::successors(latest, |&at| {
            Some(self.before[at as usize]).filter(|&before| before != NONE)
        });
        linked.map(|at| at as usize).take(OCCURRENCES)
    }
}

/// The tokens of one sequence, prompt and answer, with chains to find earlier occurrences. Takes some
/// 12 bytes a token and 20 for each different token and run of three.
#[derive(Clone, Debug, Default)]
pub struct Lookup {
    tokens: Vec<u32>,
    ones: Chain,
    grams: Chain,
}

impl Lookup {
    /// An empty sequence.
    pub fn new() -> Lookup {
        Lookup::default()
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Adds the sequence's next token.
    pub fn push(&mut self, token: u32) {
        self.tokens.push(token);
        let (one, gram) = keys(&ending(&self.tokens, &[]));
        self.ones.push(one);
        self.grams.push(gram);
    }

    /// The likeliest tokens after the sequence and `path`, at most `width`, likeliest first, with their
    /// log-probabilities. They sum to less than 1: the next token may be one that never followed.
    ///
    /// The longest match is trusted at its rate; what remains goes to shorter ones in turn, as in
    /// prediction by partial matching (Cleary and Witten 1984).
    pub fn children(&self, path: &[u32], width: usize, trust: &LookupTrust) -> Vec<(u32, f32)> {
        let mut found = self.occurrences(path);
        let mut children: Vec<(u32, f64)> = Vec::new();
        let mut remains = 1.0;
        for_lengths(&mut found, |length, followers| {
            let rate = trust.rate(length);
            let decay = |age: usize| RECENCY.powi(age as i32);
            let all: f64 = (0..followers.len()).map(decay).sum();
            for (age, occurrence) in followers.iter().enumerate() {
                let p = remains * rate * decay(age) / all;
                match children.iter_mut().find(|(token, _)| *token == occurrence.next) {
                    Some((_, sum)) => *sum += p,
                    None => children.push((occurrence.next, p)),
                }
            }
            remains *= 1.0 - rate;
            true
        });
        children.sort_by(|a, b| b.1.total_cmp(&a.1));
        children.truncate(width);
        children.into_iter().map(|(token, p)| (token, p.ln() as f32)).collect()
    }

    /// Tells `trust` whether `next`, the token about to be pushed, is what matches promised. For tokens
    /// of answers: those of prompts follow other laws.
    pub fn learn(&self, next: u32, trust: &mut LookupTrust) {
        for_lengths(&mut self.occurrences(&[]), |length, followers| {
            let hit = followers.iter().any(|occurrence| occurrence.next == next);
            trust.observe(length, hit);
            // Shorter matches are asked only when longer ones have failed.
            !hit
        });
    }

    /// Earlier occurrences of the end of the context, the latest first among those of a chain.
    fn occurrences(&self, path: &[u32]) -> Vec<Occurrence> {
        let ending = ending(&self.tokens, path);
        let (one, gram) = keys(&ending);
        let occurrence = |at: usize| {
            let backwards = self.tokens[..=at].iter().rev();
            let length = backwards.zip(&ending).take_while(|(a, b)| Some(**a) == **b).count();
            let &next = self.tokens.get(at + 1)?;
            Some(Occurrence { length, next })
        };
        let long = self.grams.positions(gram).filter_map(occurrence);
        let mut found: Vec<Occurrence> = long.filter(|one| one.length >= GRAM).collect();
        let short = self.ones.positions(one).filter_map(occurrence);
        found.extend(short.filter(|one| (1..GRAM).contains(&one.length)));
        found
    }
}

/// Calls `visit` with the lengths that matches have, longest first, and the occurrences that match at
/// least so far, latest first within a length; until it returns false.
fn for_lengths(found: &mut [Occurrence], mut visit: impl FnMut(usize, &[Occurrence]) -> bool) {
    found.sort_by_key(|occurrence| std::cmp::Reverse(occurrence.length));
    let mut end = 0;
    while let Some(&Occurrence { length, .. }) = found.get(end) {
        end += found[end..].iter().take_while(|occurrence| occurrence.length == length).count();
        if !visit(length, &found[..end]) {
            return;
        }
    }
}

/// The last tokens of a context, the last first; `None` before its start.
fn ending(tokens: &[u32], path: &[u32]) -> [Option<u32>; MATCH_MAX] {
    let mut backwards = path.iter().rev().chain(tokens.iter().rev()).copied();
    std::array::from_fn(|_| backwards.next())
}

/// Keys of the two chains at the end of a context.
fn keys(ending: &[Option<u32>; MATCH_MAX]) -> (Option<u64>, Option<u64>) {
    let gram = ending[..GRAM].iter().try_fold(0u64, |key, token| {
        // Runs that share a key are told apart by their tokens.
        Some((key ^ u64::from((*token)?)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29))
    });
    (ending[0].map(u64::from), gram)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lookup(tokens: &[u32]) -> Lookup {
        let mut lookup = Lookup::new();
        tokens.iter().for_each(|&token| lookup.push(token));
        lookup
    }

    fn tokens(children: &[(u32, f32)]) -> Vec<u32> {
        children.iter().map(|(token, _)| *token).collect()
    }

    #[test]
    fn longer_matches_come_first_then_later_ones() {
        let trust = LookupTrust::new();
        let lookup = lookup(&[1, 2, 3, 4, 7, 2, 3, 5, 8, 3, 6, 9, 1, 2, 3]);
        assert_eq!(tokens(&lookup.children(&[], 9, &trust)), [4, 5, 6]);
        assert_eq!(tokens(&lookup.children(&[], 2, &trust)), [4, 5]);
        assert_eq!(tokens(&lookup.children(&[4], 9, &trust)), [7]);
        assert_eq!(tokens(&lookup.children(&[4, 7, 2, 3], 1, &trust)), [5]);
        assert!(lookup.children(&[77], 9, &trust).is_empty());
        assert!(lookup.children(&[4], 0, &trust).is_empty());
        assert!(Lookup::new().children(&[], 4, &trust).is_empty());
    }

    #[test]
    fn later_occurrences_count_more() {
        let lookup = lookup(&[1, 5, 1, 6, 1, 7, 1]);
        assert_eq!(tokens(&lookup.children(&[], 9, &LookupTrust::new())), [7, 6, 5]);
    }

    #[test]
    fn trust_is_learned() {
        let mut trust = LookupTrust::new();
        let mut lookup = Lookup::new();
        // Pairs repeat: after a 5 the next token is known, after what follows it nothing is.
        for step in 0u32..2000 {
            for token in [5, 6, step.wrapping_mul(2_654_435_761) >> 12 | 1 << 20] {
                lookup.learn(token, &mut trust);
                lookup.push(token);
            }
        }
        lookup.push(5);
        let children = lookup.children(&[], 4, &trust);
        assert!(children[0].0 == 6 && children[0].1 > -0.02, "{children:?}");
        assert!(trust.rate(2) < 0.02, "{trust:?}");
    }

    proptest! {
        /// Children are what followed some occurrence of the last token, their probabilities those of a
        /// distribution; the first one followed the longest match there is.
        #[test]
        fn children_followed(
            all in prop::collection::vec(0u32..4, 0..40),
            path in prop::collection::vec(0u32..5, 0..4),
        ) {
            let children = lookup(&all).children(&path, 10, &LookupTrust::new());
            let context = [&all[..], &path].concat();
            let follows = |token: u32, length: usize| {
                all.windows(length + 1).any(|window| {
                    window[..length] == context[context.len() - length..] && window[length] == token
                })
            };
            let longest = (1..=context.len().min(all.len()).min(MATCH_MAX))
                .rev()
                .find(|&length| (0..5).any(|token| follows(token, length)));
            prop_assert_eq!(children.is_empty(), longest.is_none());
            for (token, log_p) in &children {
                prop_assert!(follows(*token, 1) && *log_p < 0.0);
            }
            let sum: f32 = children.iter().map(|(_, log_p)| log_p.exp()).sum();
            prop_assert!(sum < 1.0, "{}", sum);
            if let Some(longest) = longest {
                prop_assert!(children.iter().any(|child| follows(child.0, longest)));
            }
        }
    }
}
