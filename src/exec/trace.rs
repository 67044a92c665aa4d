//! When each step and each read ran.

use crate::schedule::Step;
use std::time::{Duration, Instant};

/// Events kept at most: a long run keeps its beginning.
const EVENTS_MAX: usize = 1 << 20;

/// Something that took a time.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceEvent {
    /// What it was.
    pub name: String,
    /// Who did it: the schedule, a reader, the host that attends, or what grows draft trees.
    pub track: &'static str,
    /// Since the trace began.
    pub start: Duration,
    /// How long it took.
    pub duration: Duration,
    /// In which pass.
    pub pass: usize,
}

/// Records events from its making on.
pub(super) struct Trace {
    begin: Instant,
    events: Vec<TraceEvent>,
}

impl Trace {
    pub(super) fn new() -> Trace {
        Trace { begin: Instant::now(), events: Vec::new() }
    }

    pub(super) fn step(&mut self, step: Step, pass: usize, start: Instant) {
        let end = Instant::now();
        self.push(step.to_string(), "schedule", pass, (start, end));
    }

    pub(super) fn read(&mut self, stream: usize, pass: usize, times: (Instant, Instant)) {
        self.push(format!("read {stream}"), "reads", pass, times);
    }

    pub(super) fn attention(
        &mut self,
        layer: usize,
        micro: usize,
        pass: usize,
        times: (Instant, Instant),
    ) {
        self.push(format!("attention {layer}/{micro}"), "host", pass, times);
    }

    pub(super) fn trees(&mut self, what: String, pass: usize, start: Instant) {
        self.push(what, "draft trees", pass, (start, Instant::now()));
    }

    fn push(
        &mut self,
        name: String,
        track: &'static str,
        pass: usize,
        (start, end): (Instant, Instant),
    ) {
        if self.events.len() < EVENTS_MAX {
            let (start, duration) = (start.saturating_duration_since(self.begin), end - start);
            self.events.push(TraceEvent { name, track, start, duration, pass });
        }
    }

    pub(super) fn events(&self) -> &[TraceEvent] {
        &self.events
    }
}
