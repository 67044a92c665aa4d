//! Streamed weights on their way to the device, and what becomes of their places.

use super::ExecError;
use super::executor::{Executor, InRam, POISON};
use crate::backend::{CopyPart, DeviceError};
use crate::schedule::{Part, Stream, streams_ahead, uploads_ahead};
use crate::store::Throttle;
use forebay_planner::Tier;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

impl Executor {
    pub(super) fn upload(&mut self, index: usize, pass: usize) -> Result<(), ExecError> {
        let stream = self.plan.streams[index];
        let ring = self.ring.expect("a ring was made for streams");
        let target = match stream.home {
            Tier::Disk => {
                let streams = self.streams.as_mut().expect("reads were started");
                streams.wait(&self.plan, (pass, index), &mut self.trace)?;
                streams.target(&stream)
            }
            _ => {
                let (from, to) = (&self.in_ram[&index], (ring, stream.place.offset));
                let device = self.device.as_mut();
                paced(&self.throttle, stream.bytes, || match from {
                    InRam::Bytes(bytes) => device.write(to.0, to.1, bytes),
                    InRam::Reached(buffer) => {
                        let part = CopyPart { from: 0, to: to.1, bytes: stream.bytes };
                        device.copy(*buffer, to.0, &[part])
                    }
                })?;
                self.uploaded(stream.bytes);
                return Ok(());
            }
        };
        // SAFETY: the read is done, and its place is not written again before `uploaded` says so.
        let bytes = unsafe { target.bytes() };
        let to = (ring, stream.place.offset);
        let device = self.device.as_mut();
        paced(&self.throttle, bytes.len(), || device.write(to.0, to.1, bytes))?;
        if self.poison {
            bytes.fill(POISON);
        }
        self.uploaded(stream.bytes);
        Ok(())
    }

    /// Lets the weights of the coming pass go on arriving, as far as the ring has room, while something else
    /// computes: those that the device copies from RAM by itself, without anybody waiting for it.
    pub fn fill_ahead(&mut self) -> Result<(), ExecError> {
        let Some(ring) = self.ring.filter(|_| self.ahead == 0 && self.throttle.is_none()) else {
            return Ok(());
        };
        let start = Instant::now();
        let mut copies = Vec::new();
        for index in uploads_ahead(&self.plan) {
            let Some(InRam::Reached(from)) = self.in_ram.get(&index) else { return Ok(()) };
            let Stream { place, bytes, .. } = self.plan.streams[index];
            copies.push((*from, CopyPart { from: 0, to: place.offset, bytes }));
        }
        if copies.is_empty() {
            return Ok(());
        }
        self.device.gather(&copies, ring)?;
        copies.iter().for_each(|(_, part)| self.uploaded(part.bytes));
        self.ahead = streams_ahead(&self.plan);
        self.note(start, || format!("{} uploads ahead", copies.len()));
        if let Some(clock) = &mut self.clock {
            clock.fill_ahead(&self.plan);
        }
        Ok(())
    }

    pub(super) fn uploaded(&mut self, bytes: usize) {
        self.uploaded_bytes += bytes as u64;
        if let Some(streams) = &mut self.streams {
            streams.uploaded(&self.plan);
        }
    }

    /// Waits for a part's reads, once the device has what it can do meanwhile.
    pub(super) fn wait(&mut self, part: usize) -> Result<(), ExecError> {
        if !self.plan.shares_ram {
            return Ok(());
        }
        self.flush()?;
        let last = self.plan.parts[part].streams.end - 1;
        let streams = self.streams.as_mut().expect("reads were started");
        streams.wait(&self.plan, (self.passes, last), &mut self.trace)
    }

    pub(super) fn release(&mut self, part: usize) -> Result<(), ExecError> {
        let plan = &self.plan.parts[part];
        let streams = plan.streams.clone();
        // A layer at a time, so that the device is neither idle nor flooded.
        if !streams.is_empty() || matches!(plan.part, Part::FeedForward(_)) {
            self.flush()?;
        }
        self.poison_streams(streams)?;
        if let Some(streams) = &mut self.streams {
            streams.release(&self.plan, self.passes * self.plan.parts.len() + part + 1);
        }
        Ok(())
    }

    /// Spoils the places of streams that are done with.
    fn poison_streams(&mut self, streams: Range<usize>) -> Result<(), ExecError> {
        if let Some(ring) = self.ring.filter(|_| self.poison) {
            for stream in &self.plan.streams[streams] {
                self.device.write(ring, stream.place.offset, &vec![POISON; stream.bytes])?;
            }
        }
        Ok(())
    }
}

/// Copies `bytes`, no faster than the throttle allows.
fn paced(
    throttle: &Option<Arc<Throttle>>,
    bytes: usize,
    copy: impl FnOnce() -> Result<(), DeviceError>,
) -> Result<(), DeviceError> {
    match throttle {
        Some(throttle) => throttle.pace(bytes as u64, copy),
        None => copy(),
    }
}
