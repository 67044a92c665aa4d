//! Streams of a pass in flight: which reads may start, which have arrived.

use super::ExecError;
use super::reader::{Job, Reader, Target};
use super::trace::Trace;
use crate::schedule::{Stream, StreamPlan};
use std::collections::BTreeSet;

/// The reads of a plan, over all passes. A read is numbered by its pass and its place among the
/// plan's reads.
pub(super) struct Streams {
    /// Indices of the streams that are read.
    order: Vec<usize>,
    /// For each stream, its place in `order`.
    place: Vec<usize>,
    /// Reads that were started.
    started: usize,
    /// Reads that have arrived, together with all before them.
    arrived: usize,
    /// Those that arrived before an earlier one.
    early: BTreeSet<usize>,
    /// The ring that reads land in.
    ring: Target,
    overlap: bool,
    reader: Reader,
    /// Bytes that have arrived.
    pub(super) read_bytes: u64,
    /// Parts released and streams uploaded, over all passes.
    released: usize,
    uploads: usize,
}

impl Streams {
    /// Starts the reads of `plan` that need no room to be made.
    pub(super) fn start(plan: &StreamPlan, reader: Reader, ring: Target, overlap: bool) -> Streams {
        let order: Vec<usize> = plan.reads().map(|(index, _)| index).collect();
        let mut place = vec![0; plan.streams.len()];
        order.iter().enumerate().for_each(|(at, &index)| place[index] = at);
        let mut streams = Streams {
            order,
            place,
            started: 0,
            arrived: 0,
            early: BTreeSet::new(),
            ring,
            overlap,
            reader,
            read_bytes: 0,
            released: 0,
            uploads: 0,
        };
        streams.pump(plan, 0);
        streams
    }

    /// Starts every read that gates allow; without overlap, only those before `needed`.
    fn pump(&mut self, plan: &StreamPlan, needed: usize) {
        while self.overlap || self.started < needed {
            let (pass, index) =
                (self.started / self.order.len(), self.order[self.started % self.order.len()]);
            let open = match plan.shares_ram {
                true => plan.is_open(index, pass, self.released),
                false => plan.host_is_open(index, pass, self.uploads),
            };
            if !open {
                return;
            }
            let stream = &plan.streams[index];
            let (tensor, segment) = (stream.tensor, stream.index);
            let target = self.target(stream);
            self.reader.read(Job { number: self.started, tensor, index: segment, target });
            self.started += 1;
        }
    }

    /// Where a stream's read lands.
    pub(super) fn target(&self, stream: &Stream) -> Target {
        let place = stream.host_place.unwrap_or(stream.place);
        self.ring.part(place.offset, stream.bytes)
    }

    /// Says that `released` parts (over all passes) are done with.
    pub(super) fn release(&mut self, plan: &StreamPlan, released: usize) {
        self.released = released;
        if plan.shares_ram {
            self.pump(plan, 0);
        }
    }

    /// Says that one more stream was uploaded.
    pub(super) fn uploaded(&mut self, plan: &StreamPlan) {
        self.uploads += 1;
        if !plan.shares_ram {
            self.pump(plan, 0);
        }
    }

    /// Waits until the read of stream `index` for pass `pass` has arrived.
    pub(super) fn wait(
        &mut self,
        plan: &StreamPlan,
        (pass, index): (usize, usize),
        trace: &mut Option<Trace>,
    ) -> Result<(), ExecError> {
        let number = pass * self.order.len() + self.place[index];
        self.pump(plan, number + 1);
        while self.arrived <= number {
            let done = self.reader.next().ok_or(ExecError::ReaderGone)?;
            done.read?;
            let stream = self.order[done.number % self.order.len()];
            self.read_bytes += plan.streams[stream].bytes as u64;
            if let Some(trace) = trace {
                trace.read(stream, done.number / self.order.len(), done.times);
            }
            self.early.insert(done.number);
            while self.early.remove(&self.arrived) {
                self.arrived += 1;
            }
        }
        Ok(())
    }
}
