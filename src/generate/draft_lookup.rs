//! Drafts from what the sequence itself has: what followed its last tokens earlier on. No model, no time.

use super::drafter::{DraftError, DraftWork, Draftable, Drafter, Followed, GrowthPlan, Target};
use crate::speculate::{LOOKUP_BYTES, Lookup, LookupTrust, Tree};
use std::collections::HashMap;

/// Children of a node.
const WIDTH: usize = 8;

/// See the module.
#[derive(Default)]
pub struct DraftLookup {
    own: HashMap<u64, Lookup>,
    trust: LookupTrust,
    work: DraftWork,
}

impl DraftLookup {
    /// Bytes of memory for each position of a sequence, at most.
    pub const POSITION_BYTES: u64 = LOOKUP_BYTES;

    /// One that has seen nothing.
    pub fn new() -> DraftLookup {
        DraftLookup::default()
    }
}

impl Drafter for DraftLookup {
    fn grow(
        &mut self,
        _: &mut Target<'_>,
        sequences: &[Draftable<'_>],
        plan: &GrowthPlan<'_>,
    ) -> Result<Vec<Tree>, DraftError> {
        let roots: Vec<u32> = sequences.iter().map(|s| s.tokens[s.root()]).collect();
        let mut forest = plan.forest(&roots);
        for sequence in sequences {
            let own = self.own.entry(sequence.key).or_default();
            // A sequence's tokens only grow.
            sequence.tokens[own.len()..].iter().for_each(|&token| own.push(token));
        }
        loop {
            let round = forest.next_round();
            if round.is_empty() {
                return Ok(forest.finish());
            }
            for at in round {
                let sequence = &sequences[at.tree];
                let path = forest.path_tokens(at);
                let children = match path.len() < sequence.depth {
                    true => self.own[&sequence.key].children(&path, WIDTH, &self.trust),
                    false => Vec::new(),
                };
                forest.expand(at, &children);
                self.work.rows += 1;
            }
            self.work.rounds += 1;
        }
    }

    fn followed(&mut self, what: &Followed<'_>) {
        let Some(own) = self.own.get_mut(&what.key) else { return };
        let nodes = what.tree.nodes();
        let tokens = what.path.iter().map(|&node| nodes[node].token).chain([what.next]);
        for token in tokens {
            own.learn(token, &mut self.trust);
            own.push(token);
        }
    }

    fn forget(&mut self, key: u64) {
        self.own.remove(&key);
    }

    fn work(&self) -> DraftWork {
        self.work
    }
}
