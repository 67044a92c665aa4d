//! Disks that fail on demand, so that tests can see what a job does about it. Nothing else uses this.
//!
//! ```
//! use forebay::store::faults::{ALWAYS, Fault, FaultKind, Faults};
//! // The third transfer fails once, and from the tenth on all are slow.
//! let slow = FaultKind::Slow(std::time::Duration::from_millis(5));
//! let faults = Faults::new(vec![
//!     Fault { kind: FaultKind::Error, first: 2, count: 1 },
//!     Fault { kind: slow, first: 9, count: ALWAYS },
//! ]);
//! assert_eq!(faults.transfers(), 0);
//! ```

use super::error::StoreError;
use super::weights::WeightSource;
use crate::model::TensorId;
use crate::quant::IO_ALIGN;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// A [`Fault::count`] without end.
pub const ALWAYS: u64 = u64::MAX;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Half of the bytes are moved (in whole pages, at least one), as systems may.
    Short,
    /// The transfer fails with EIO.
    Error,
    /// The transfer begins this much later.
    Slow(Duration),
    /// One bit of what was read is wrong, in this byte (modulo the length); writes are left alone.
    Flip(usize),
}

/// A run of faulty transfers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What goes wrong.
    pub kind: FaultKind,
    /// The first transfer that it happens to, counted from 0 over all threads; repeats count too.
    pub first: u64,
    /// How many transfers it happens to.
    pub count: u64,
}

/// A plan of faults for the system calls of one file ([`super::IoControl::faults`]), or for the
/// reads of a [`Faulty`] source.
#[derive(Debug)]
pub struct Faults {
    plan: Vec<Fault>,
    transfers: AtomicU64,
}

/// What the plan has for one transfer.
pub(super) struct Strike {
    /// Bytes to move at most.
    pub(super) most: usize,
    flips: Vec<usize>,
}

impl Strike {
    /// Does to `bytes`, as read, what the plan says.
    pub(super) fn corrupt(&self, bytes: &mut [u8]) {
        if bytes.is_empty() {
            return;
        }
        for at in &self.flips {
            bytes[at % bytes.len()] ^= 1;
        }
    }
}

impl Faults {
    /// A plan of any number of faults, which may overlap.
    pub fn new(plan: Vec<Fault>) -> Arc<Faults> {
        Arc::new(Faults { plan, transfers: AtomicU64::new(0) })
    }

    /// Transfers so far.
    pub fn transfers(&self) -> u64 {
        self.transfers.load(Ordering::SeqCst)
    }

    /// Counts a transfer of `len` bytes; sleeps or fails as planned.
    pub(super) fn strike(&self, len: usize) -> io::Result<Strike> {
        let number = self.transfers.fetch_add(1, Ordering::SeqCst);
        let mut strike = Strike { most: len, flips: Vec::new() };
        for fault in &self.plan {
            if number < fault.first || number - fault.first >= fault.count {
                continue;
            }
            match fault.kind {
                FaultKind::Short => {
                    let half = (len / 2 - len / 2 % IO_ALIGN).max(IO_ALIGN);
                    strike.most = strike.most.min(half);
                }
                FaultKind::Error => return Err(eio()),
                FaultKind::Slow(pause) => thread::sleep(pause),
                FaultKind::Flip(at) => strike.flips.push(at),
            }
        }
        Ok(strike)
    }
}

#[cfg(unix)]
fn eio() -> io::Error {
    rustix::io::Errno::IO.into()
}

#[cfg(not(unix))]
fn eio() -> io::Error {
    io::Error::other("input/output error")
}

/// A source of weights that fails as planned, a segment being one transfer: for what sits above the
/// store, without files. Here nothing tries again; a short read is an error.
#[derive(Debug)]
pub struct Faulty<W> {
    inner: W,
    faults: Arc<Faults>,
}

impl<W: WeightSource> Faulty<W> {
    /// Puts `faults` before `inner`.
    pub fn new(inner: W, faults: Arc<Faults>) -> Faulty<W> {
        Faulty { inner, faults }
    }
}

impl<W: WeightSource> WeightSource for Faulty<W> {
    fn read_segment(&self, id: TensorId, index: usize, out: &mut [u8]) -> Result<(), StoreError> {
        let bytes = out.len();
        let failed = |source| StoreError::Disk {
            path: format!("{} (segment {index})", id.gguf_name()),
            action: "read",
            bytes,
            offset: 0,
            source,
        };
        let strike = self.faults.strike(bytes).map_err(failed)?;
        self.inner.read_segment(id, index, out)?;
        if strike.most < bytes {
            out[strike.most..].fill(0xA5);
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        strike.corrupt(out);
        Ok(())
    }
}
