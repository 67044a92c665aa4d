//! An event clock over the steps of a pass: what overlap can give, from measured rates.

use super::plan::StreamPlan;
use super::step::{Step, streams_ahead, uploads_ahead};
use forebay_planner::Tier;
use std::collections::VecDeque;

/// What steps cost.
pub trait StepCosts {
    /// Seconds of device time that a step takes; moving streams is not asked for.
    fn compute_seconds(&self, step: Step) -> f64;
    /// Seconds that the host attends for a [`Step::Attend`]; what the device waits for its rows is
    /// compute time of the step, and of [`Step::AwaitAttention`].
    fn attention_seconds(&self, step: Step) -> f64;
    /// Seconds to read a stream of `bytes` from disk.
    fn read_seconds(&self, bytes: usize) -> f64;
    /// Seconds to copy a stream of `bytes` to the device.
    fn upload_seconds(&self, bytes: usize) -> f64;
    /// Part of an upload that runs beside the device's work, 0 to 1.
    fn upload_overlap(&self) -> f64;
    /// Part of a read that runs beside the device's work, 0 to 1.
    fn read_overlap(&self) -> f64;
    /// What loading, awaiting or storing cache pages takes.
    fn page_seconds(&self, step: Step) -> PageSeconds;
}

/// Where a step that moves cache pages spends its time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PageSeconds {
    /// On the disk.
    pub disk: f64,
    /// Between RAM and the device, which waits.
    pub link: f64,
}

/// Clocks of the reader, the uploader, the host's attention and the device, carried from pass to pass.
#[derive(Clone, Debug, Default)]
pub struct Simulation {
    now: f64,
    computed: f64,
    reader_free: f64,
    host_free: f64,
    /// When the host has attended to all it was given, and to each micro-batch.
    attention_free: f64,
    attended: Vec<f64>,
    attention: f64,
    pass: usize,
    /// The streams that are read, in order.
    order: Vec<usize>,
    /// When each stream was last there: read, or uploaded where that is a step of its own.
    there: Vec<f64>,
    read: Vec<f64>,
    /// Streams read, over all passes.
    reads: usize,
    /// When each part was last released.
    released: Vec<f64>,
    /// When each stream's place in the host ring was last free.
    host_place_free: Vec<f64>,
    parts_released: usize,
    uploads: usize,
    /// Streams of the coming pass that are uploaded before it begins.
    ahead: usize,
    /// When the thread that moves pages is free, and when the pages of coming turns are there.
    pager_free: f64,
    arrivals: VecDeque<f64>,
}

impl Simulation {
    /// A clock at 0, before the first pass.
    pub fn new(plan: &StreamPlan) -> Simulation {
        let (streams, parts) = (plan.streams.len(), plan.parts.len());
        Simulation {
            there: vec![0.0; streams],
            read: vec![0.0; streams],
            host_place_free: vec![0.0; streams],
            released: vec![0.0; parts],
            order: plan.reads().map(|(index, _)| index).collect(),
            ..Simulation::default()
        }
    }

    /// Seconds since the clock began.
    pub fn now(&self) -> f64 {
        self.now
    }

    /// Seconds of these that the device computed.
    pub fn computed(&self) -> f64 {
        self.computed
    }

    /// Seconds that the host attended, beside the device or not.
    pub fn attention(&self) -> f64 {
        self.attention
    }

    /// Lets time pass outside of passes (the host's own work); reads go on.
    pub fn idle(&mut self, seconds: f64) {
        self.now += seconds;
    }

    /// Plays uploads before a pass, to be made while something else computes; see [`uploads_ahead`].
    pub fn fill_ahead(&mut self, plan: &StreamPlan, costs: &impl StepCosts) {
        self.host_free = self.host_free.max(self.now);
        for stream in uploads_ahead(plan) {
            self.upload(plan, stream, costs);
        }
        self.ahead = streams_ahead(plan);
    }

    /// Plays a pass; returns the seconds it took.
    pub fn pass(&mut self, plan: &StreamPlan, steps: &[Step], costs: &impl StepCosts) -> f64 {
        let start = self.now;
        self.host_free = self.host_free.max(start);
        for &step in steps {
            self.read_ahead(plan, costs);
            match step {
                _ if step.is_made(self.ahead) => {}
                Step::Upload { stream, .. } => {
                    // What does not overlap holds the device up.
                    let seconds = self.upload(plan, stream, costs);
                    self.now += seconds * (1.0 - costs.upload_overlap());
                }
                Step::Await { part } => {
                    let there = |stream: usize| self.there[stream];
                    let latest = plan.parts[part].streams.clone().map(there).fold(0.0, f64::max);
                    self.now = self.now.max(latest);
                }
                Step::Release { part } => {
                    self.released[part] = self.now;
                    self.parts_released = self.pass * plan.parts.len() + part + 1;
                }
                Step::LoadPages { .. } => {
                    let there = self.move_pages(costs.page_seconds(step));
                    self.arrivals.push_back(there);
                }
                Step::AwaitPages { .. } => {
                    let there = self.arrivals.pop_front().unwrap_or_default();
                    self.now = self.now.max(there) + costs.page_seconds(step).link;
                }
                Step::StorePages { .. } => {
                    let seconds = costs.page_seconds(step);
                    self.now += seconds.link;
                    self.move_pages(seconds);
                }
                Step::Attend { micro, .. } => {
                    self.compute(costs.compute_seconds(step), costs);
                    let start = self.attention_free.max(self.now);
                    let seconds = costs.attention_seconds(step);
                    self.attention += seconds;
                    self.attention_free = start + seconds;
                    self.attended.resize(self.attended.len().max(micro + 1), 0.0);
                    self.attended[micro] = self.attention_free;
                }
                Step::AwaitAttention { micro, .. } => {
                    self.now = self.now.max(self.attended[micro]);
                    self.compute(costs.compute_seconds(step), costs);
                }
                _ => self.compute(costs.compute_seconds(step), costs),
            }
        }
        self.pass += 1;
        self.ahead = 0;
        self.now - start
    }

    /// Pages to or from the disk, which reads of weights share; when that is done.
    fn move_pages(&mut self, seconds: PageSeconds) -> f64 {
        self.pager_free = self.pager_free.max(self.now) + seconds.disk;
        if self.reader_free > self.now {
            self.reader_free += seconds.disk;
        }
        self.pager_free
    }

    /// Device time; while a read is under way, what cannot overlap is added.
    fn compute(&mut self, seconds: f64, costs: &impl StepCosts) {
        self.computed += seconds;
        let beside = (self.reader_free - self.now).clamp(0.0, seconds);
        self.now += seconds + beside * (1.0 - costs.read_overlap());
    }

    /// Starts every read whose place is free by what has happened so far.
    fn read_ahead(&mut self, plan: &StreamPlan, costs: &impl StepCosts) {
        let count = self.order.len();
        if count == 0 {
            return;
        }
        loop {
            let (round, index) = (self.reads / count, self.order[self.reads % count]);
            let Some(free) = self.place_free(plan, round, index) else { break };
            let stream = &plan.streams[index];
            self.reader_free = self.reader_free.max(free) + costs.read_seconds(stream.bytes);
            self.read[index] = self.reader_free;
            if plan.shares_ram {
                self.there[index] = self.reader_free;
            }
            self.reads += 1;
        }
    }

    /// When the place a read lands in became free, if it has.
    fn place_free(&self, plan: &StreamPlan, round: usize, index: usize) -> Option<f64> {
        let stream = &plan.streams[index];
        match stream.host_place {
            None if plan.is_open(index, round, self.parts_released) => {
                Some(if round == 0 && stream.place.gate.round_before {
                    0.0
                } else {
                    self.released[stream.place.gate.used_by]
                })
            }
            Some(place) if plan.host_is_open(index, round, self.uploads) => {
                let first = round == 0 && place.gate.round_before;
                Some(if first { 0.0 } else { self.host_place_free[place.gate.used_by] })
            }
            _ => None,
        }
    }

    /// Copies a stream after those before it; returns the seconds it takes.
    fn upload(&mut self, plan: &StreamPlan, index: usize, costs: &impl StepCosts) -> f64 {
        let stream = &plan.streams[index];
        if stream.home == Tier::Disk {
            self.host_free = self.host_free.max(self.read[index]);
        }
        let seconds = costs.upload_seconds(stream.bytes);
        self.host_free += seconds;
        self.there[index] = self.host_free;
        self.host_place_free[index] = self.host_free;
        self.uploads += 1;
        seconds
    }
}
