//! Plans again while a job runs, when answers turn out longer or shorter than was planned for, or draft
//! trees bring more or less.

use super::exit::told;
use super::log;
use super::planning::Planned;
use super::prepare::{Ready, Setup};
use super::progress::Display;
use crate::exec::Traffic;
use crate::generate::{Completion, Engine, FinishReason, Request};
use crate::job::{Counters, LEARNED_MIN, Learned, Survey, Worker};
use crate::tokenizer::Tokenizer;
use forebay_planner::{HardwareProfile, Policy};
use std::error::Error;

/// What is left must be so many times faster by another plan, loading included, to change over.
const GAIN: f64 = 1.15;

/// Answers so many times longer or shorter than planned are worth a look.
const APART: f64 = 1.25;

/// What executors did and held.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Work {
    /// Bytes that moved between tiers.
    pub(super) moved: Traffic,
    /// Seconds in which the device computed and the host attended, by the event clock.
    pub(super) computed: f64,
    pub(super) attended: f64,
    /// Most bytes on the device at a time.
    pub(super) device_bytes_peak: u64,
}

/// An engine that is made anew where another plan would be done sooner.
pub(super) struct Replanner<'a> {
    setup: &'a Setup<'a>,
    survey: &'a Survey,
    tokenizer: &'a Tokenizer,
    /// None only while it is being made anew.
    engine: Option<Engine<'a>>,
    /// The plan that is followed.
    pub(super) planned: Planned,
    /// Seconds of prompts and of output that the first plan predicted, for the whole job.
    pub(super) predicted: [f64; 2],
    pub(super) profile: HardwareProfile,
    /// What was known of answers when it was made, and what is known now.
    planned_for: Learned,
    learned: Learned,
    /// Answers after which the next look is taken.
    next_look: u64,
    /// What earlier engines did.
    before: Work,
    /// Sequences that trees were grown for and accepted nodes, when the plan was made.
    trees_before: [u64; 2],
    quiet: bool,
}

impl<'a> Replanner<'a> {
    pub(super) fn new(
        setup: &'a Setup<'a>,
        survey: &'a Survey,
        tokenizer: &'a Tokenizer,
        ready: Ready,
    ) -> Replanner<'a> {
        let Ready { executor, planned, profile, speculation } = ready;
        let mut engine = Engine::new(executor, tokenizer, planned.engine);
        setup.draft.iter().for_each(|draft| draft.job_begins());
        speculation.into_iter().for_each(|speculation| engine.speculate(speculation));
        Replanner {
            setup,
            survey,
            tokenizer,
            engine: Some(engine),
            predicted: [planned.plan.prefill_seconds, planned.plan.decode_seconds],
            planned,
            profile,
            planned_for: Learned::default(),
            learned: Learned::default(),
            next_look: if setup.is_pinned() { u64::MAX } else { LEARNED_MIN },
            before: Work::default(),
            trees_before: [0, 0],
            quiet: setup.quiet,
        }
    }

    pub(super) fn engine(&self) -> &Engine<'a> {
        self.engine.as_ref().expect("it is there between steps")
    }

    fn engine_mut(&mut self) -> &mut Engine<'a> {
        self.engine.as_mut().expect("it is there between steps")
    }

    /// What all engines did, this one included.
    pub(super) fn work(&self) -> Work {
        let (before, engine) = (self.before, self.engine());
        let executor = engine.executor();
        Work {
            moved: before.moved + executor.traffic(),
            computed: before.computed + executor.simulated_compute_seconds(),
            attended: before.attended + executor.simulated_attention_seconds(),
            device_bytes_peak: before.device_bytes_peak.max(engine.device_bytes_peak()),
        }
    }

    fn learn(&mut self, completions: &[Completion]) {
        let stopped = completions.iter().filter(|c| c.finish == FinishReason::Stop).count();
        self.learned.stopped += stopped as u64;
        self.learned.ended += completions.len() as u64;
        self.learned.tokens = self.engine().stats().generated_tokens;
    }

    /// Looks at the plan after 8, 16, 32… answers.
    fn look(&mut self) -> anyhow::Result<()> {
        if self.learned.ended < self.next_look {
            return Ok(());
        }
        self.next_look = 2 * self.learned.ended;
        self.learn_trees();
        let left = self.survey.after(self.learned.ended as usize);
        let [before, now] = [self.planned_for, self.learned].map(|known| left.outputs(&known));
        let lengths = before as f64 / now as f64;
        if now == 0 || (lengths.ln().abs() < APART.ln() && !self.trees_surprise()) {
            return Ok(());
        }
        let left = Survey { learned: self.learned, ..left };
        let (seconds, other) = match self.compare(&left) {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!("no other plan: {}", told(&error));
                return Ok(());
            }
        };
        let most = seconds / GAIN;
        if other.plan.seconds() + other.plan.load_seconds > most {
            return Ok(());
        }
        if !self.quiet {
            let trees = self.tokens_per_pass().map_or(String::new(), |tokens| {
                format!(", draft trees bring {tokens:.1} tokens a pass")
            });
            log::say(&format!(
                "forebay: answers have {} tokens on average{trees}; planning again: {:.0} s instead of \
                 {seconds:.0} s for what is left",
                self.learned.tokens / self.learned.ended.max(1),
                other.plan.seconds()
            ));
        }
        self.change_over(&left)
    }

    /// Seconds of what is left under the plan that is followed, and the best plan for it.
    fn compare(&self, left: &Survey) -> anyhow::Result<(f64, Planned)> {
        let question = self.setup.question(&self.profile, left)?;
        let device = self.engine().executor().device();
        let mut asked = question.ask(device)?;
        asked.stand_where(&self.planned);
        Ok((asked.seconds(device, &self.policy())?, asked.plan(device)?))
    }

    /// Sequences that trees were grown for, and accepted nodes, so far.
    fn trees(&self) -> [u64; 2] {
        self.engine().tree_stats().map_or([0, 0], |stats| [stats.sequences, stats.accepted])
    }

    /// Tokens of a sequence's pass with trees since the plan was made. As in the plan, a sequence whose nodes
    /// went to others counts.
    fn tokens_per_pass(&self) -> Option<f64> {
        let [sequences, accepted] = self.trees();
        let [sequences, accepted] =
            [sequences - self.trees_before[0], accepted - self.trees_before[1]];
        (sequences > 0).then(|| 1.0 + accepted as f64 / sequences as f64)
    }

    /// What was found out about draft trees goes into the next plan, of this job and of others.
    pub(super) fn learn_trees(&self) {
        let failure = self.engine().tree_stats().and_then(|stats| stats.failure.clone());
        if let (Some(draft), Some(why)) = (&self.setup.draft, failure) {
            draft.give_up(why);
        }
        if let (Some(draft), Some(trees)) = (&self.setup.draft, self.engine().speculation()) {
            draft.learn(trees.learned());
        }
    }

    /// What is followed now: the plan's policy, less its trees once their draft has failed.
    fn policy(&self) -> Policy {
        let policy = self.planned.plan.policy.clone();
        match self.setup.draft() {
            Some(_) => policy,
            None => Policy { tree_budget: 0, draft: None, ..policy },
        }
    }

    /// Whether draft trees bring more or less than was planned for, or have ended.
    fn trees_surprise(&self) -> bool {
        if self.policy().tree_budget != self.planned.plan.policy.tree_budget {
            return true;
        }
        let planned = self.planned.plan.tokens_per_pass;
        self.tokens_per_pass().is_some_and(|tokens| (tokens / planned).ln().abs() > APART.ln())
    }

    /// Sequences start over in a new engine; their tokens so far are kept.
    fn change_over(&mut self, left: &Survey) -> anyhow::Result<()> {
        self.before = self.work();
        self.trees_before = self.trees();
        let mut suspended =
            self.engine.take().map(Engine::suspend).expect("it is there between steps");
        // The device's memory was given back with the old engine.
        let display = &mut Display::new(true);
        let device = self.setup.open_device()?;
        let Ready { executor, planned, profile, speculation } =
            match self.setup.ready(device, left, display) {
                Ok(ready) => ready,
                Err(error) => {
                    tracing::warn!(
                        "the new plan can't be followed ({}); going on with the old one",
                        told(&error)
                    );
                    self.setup.follow(self.planned.clone(), &self.profile, left, display)?
                }
            };
        if let Some(why) = self.setup.draft.as_ref().and_then(|draft| draft.failure()) {
            suspended.trees_ended(why);
        }
        let mut engine = Engine::resume(executor, self.tokenizer, planned.engine, suspended);
        speculation.into_iter().for_each(|speculation| engine.speculate(speculation));
        self.engine = Some(engine);
        (self.planned, self.profile, self.planned_for) = (planned, profile, self.learned);
        Ok(())
    }
}

impl Worker for Replanner<'_> {
    fn submit(&mut self, request: Request) -> Result<(), String> {
        Worker::submit(self.engine_mut(), request)
    }

    fn wants_more(&self) -> bool {
        self.engine().wants_more()
    }

    fn step(&mut self) -> Result<Vec<Completion>, Box<dyn Error + Send + Sync>> {
        // What ended with a pass is written before anything else can fail.
        self.look().map_err(|error| error.context("planning again"))?;
        let completions = Worker::step(self.engine_mut())?;
        self.learn(&completions);
        Ok(completions)
    }

    fn is_idle(&self) -> bool {
        self.engine().is_idle()
    }

    fn context_len(&self) -> usize {
        self.engine().context_len()
    }

    fn counters(&self) -> Counters {
        self.engine().counters()
    }
}
