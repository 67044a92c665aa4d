//! Proves a plan by playing it: nothing is used before it arrives, nothing in use is overwritten.

use super::part::Part;
use super::plan::StreamPlan;
use super::step::{PassShape, Step, pass_steps, prologue, streams_ahead, uploads_ahead};

/// What is wrong with a plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleFault {
    /// A step used a part whose stream had not arrived, or was gone.
    #[error("pass {pass}: {step}: stream {stream} is not in its place")]
    NotThere {
        /// Which pass.
        pass: usize,
        /// What the step was.
        step: String,
        /// Which stream.
        stream: usize,
    },
    /// A stream was written over one that was still needed.
    #[error("pass {pass}: stream {stream} overwrites stream {other}, which is in use")]
    Overwrites {
        /// Which pass.
        pass: usize,
        /// The stream that arrives.
        stream: usize,
        /// The one that is needed.
        other: usize,
    },
    /// A pass moved other bytes than planned.
    #[error("a pass moves {moved} bytes, {planned} are planned")]
    Bytes {
        /// Bytes of all uploads or reads of a pass.
        moved: u64,
        /// Bytes of all streams.
        planned: u64,
    },
    /// The host was given rows before they were projected, or they were used before it was done.
    #[error("pass {pass}: {step} is out of turn with the attention of the host")]
    Attention {
        /// Which pass.
        pass: usize,
        /// What the step was.
        step: String,
    },
    /// A pass that waits for a read that waits for the pass.
    #[error("pass {pass}: part {part} waits for stream {stream}, which can never be written")]
    Stuck {
        /// Which pass.
        pass: usize,
        /// Index of the part.
        part: usize,
        /// Which stream.
        stream: usize,
    },
}

/// What lies in the device's ring.
#[derive(Clone, Copy)]
struct There {
    stream: usize,
    pass: usize,
}

struct Player<'a> {
    plan: &'a StreamPlan,
    there: Vec<There>,
    /// Parts released, over all passes.
    released: usize,
    /// Streams arrived, over all passes, in the order in which a single reader brings them.
    arrived: usize,
    moved: u64,
    /// How far each micro-batch is in its layer, where attention runs on the host.
    attention: Vec<Stage>,
}

/// A micro-batch's way through a layer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Through the layer before.
    Ready,
    Projected(usize),
    Attending(usize),
    Attended(usize),
}

/// Plays `passes` passes of `shape` as eagerly as gates allow.
pub fn check(plan: &StreamPlan, shape: PassShape, passes: usize) -> Result<(), ScheduleFault> {
    let attention = vec![Stage::Ready; shape.micro_batches];
    let mut player =
        Player { plan, there: Vec::new(), released: 0, arrived: 0, moved: 0, attention };
    for step in prologue(plan) {
        player.step(step, 0)?;
    }
    for pass in 0..passes {
        // Something computes before every other pass, and the ring fills meanwhile.
        let ahead = if pass % 2 == 1 { streams_ahead(plan) } else { 0 };
        for stream in uploads_ahead(plan).filter(|_| ahead > 0) {
            player.step(Step::Upload { stream, next_pass: false }, pass)?;
        }
        for step in pass_steps(plan, shape).into_iter().filter(|step| !step.is_made(ahead)) {
            player.step(step, pass)?;
        }
    }
    if !plan.shares_ram {
        let round: u64 = plan.streams.iter().map(|s| s.bytes as u64).sum();
        let ahead = prologue(plan).len();
        let first: u64 = plan.streams[..ahead].iter().map(|s| s.bytes as u64).sum();
        let planned = round * passes as u64 + first;
        if player.moved != planned {
            return Err(ScheduleFault::Bytes { moved: player.moved, planned });
        }
    }
    Ok(())
}

impl Player<'_> {
    fn step(&mut self, step: Step, pass: usize) -> Result<(), ScheduleFault> {
        if self.plan.shares_ram {
            self.read_ahead()?;
        }
        self.attend(step, pass)?;
        match step {
            Step::Upload { stream, next_pass } => self.write(stream, pass + usize::from(next_pass)),
            Step::Await { part } => self.wait(part, pass),
            Step::Run { part, .. } | Step::Head { part, .. } => self.run(part, pass, step),
            Step::Release { part } => {
                self.released = pass * self.plan.parts.len() + part + 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Moves a micro-batch on by a step of the host's attention: project, attend, wait, feed forward.
    fn attend(&mut self, step: Step, pass: usize) -> Result<(), ScheduleFault> {
        let (micro, from, to) = match step {
            Step::Attend { layer, micro } => {
                (micro, Stage::Projected(layer), Stage::Attending(layer))
            }
            Step::AwaitAttention { layer, micro } => {
                (micro, Stage::Attending(layer), Stage::Attended(layer))
            }
            Step::Run { part, micro } if self.plan.host_attention => {
                match self.plan.parts[part].part {
                    Part::Attention(layer) => (micro, Stage::Ready, Stage::Projected(layer)),
                    Part::FeedForward(layer) => (micro, Stage::Attended(layer), Stage::Ready),
                    Part::Head(_) => return Ok(()),
                }
            }
            _ => return Ok(()),
        };
        if self.attention[micro] != from {
            return Err(ScheduleFault::Attention { pass, step: step.to_string() });
        }
        self.attention[micro] = to;
        Ok(())
    }

    /// Reads as far as gates allow.
    fn read_ahead(&mut self) -> Result<(), ScheduleFault> {
        let count = self.plan.streams.len();
        if count == 0 {
            return Ok(());
        }
        loop {
            let (pass, stream) = (self.arrived / count, self.arrived % count);
            if !self.plan.is_open(stream, pass, self.released) {
                break;
            }
            self.write(stream, pass)?;
            self.arrived += 1;
        }
        Ok(())
    }

    fn wait(&self, part: usize, pass: usize) -> Result<(), ScheduleFault> {
        if !self.plan.shares_ram {
            return Ok(());
        }
        let next = self.arrived % self.plan.streams.len().max(1);
        let needed = pass * self.plan.streams.len() + self.plan.parts[part].streams.end;
        if self.arrived < needed {
            return Err(ScheduleFault::Stuck { pass, part, stream: next });
        }
        Ok(())
    }

    fn write(&mut self, stream: usize, pass: usize) -> Result<(), ScheduleFault> {
        let range = |index: usize| {
            let s = &self.plan.streams[index];
            (s.place.offset, s.place.offset + s.bytes)
        };
        let (start, end) = range(stream);
        let parts = self.plan.parts.len();
        let covered = |old: &There| {
            let (from, to) = range(old.stream);
            from < end && start < to
        };
        for old in self.there.iter().filter(|old| covered(old)) {
            if old.pass * parts + self.plan.streams[old.stream].part >= self.released {
                return Err(ScheduleFault::Overwrites { pass, stream, other: old.stream });
            }
        }
        self.there.retain(|old| !covered(old));
        self.there.push(There { stream, pass });
        self.moved += self.plan.streams[stream].bytes as u64;
        Ok(())
    }

    fn run(&self, part: usize, pass: usize, step: Step) -> Result<(), ScheduleFault> {
        for stream in self.plan.parts[part].streams.clone() {
            if !self.there.iter().any(|t| t.stream == stream && t.pass == pass) {
                let step = step.to_string();
                return Err(ScheduleFault::NotThere { pass, step, stream });
            }
        }
        Ok(())
    }
}
