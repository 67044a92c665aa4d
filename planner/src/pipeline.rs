//! An event clock over one pass after another: streamed segments go through the rings while parts
//! compute. The sums of [`Costs`] know how long each resource is busy; this knows when it waits.

use crate::cost::{Costs, HALF_CALLS, LayerCost, beside};
use crate::inputs::Inputs;
use crate::memory::streamed;
use crate::passes::Pass;
use crate::policy::{Policy, Tier};
use crate::setting::{Fractions, Placement, Setting};
use std::collections::VecDeque;
use std::ops::Range;

/// Streamed segments of a policy in the order of a pass.
pub(crate) struct Stream<'a> {
    costs: &'a Costs<'a>,
    policy: &'a Policy,
    /// (bytes, whether it comes from disk).
    segments: Vec<(f64, bool)>,
    /// Which of them, from and to, each part needs: two to a layer, then the head's runs.
    parts: Vec<(usize, usize)>,
    /// Kind of each layer.
    kinds: Vec<usize>,
    /// Where the layers' weights are.
    layers: Fractions,
}

/// Seconds of one part of a pass besides its weights.
#[derive(Clone, Copy, Default)]
struct Load {
    compute: f64,
    /// Part of `compute` that follows the last cache page to arrive.
    after_cache: f64,
    link: f64,
    disk: f64,
}

/// Runs of the head that the device's ring holds, as the executor cuts it.
const HEAD_RUNS: u64 = 3;

/// Passes that are run: the first fill the rings, the others are measured.
const WARM: usize = 2;
const MEASURED: usize = 2;

impl<'a> Stream<'a> {
    /// Of a policy that realises `placement`.
    pub(crate) fn new(
        inputs: &Inputs<'_>,
        costs: &'a Costs<'a>,
        policy: &'a Policy,
        placement: &Placement,
    ) -> Stream<'a> {
        let model = inputs.model;
        let mut segments = Vec::new();
        let mut parts = vec![None; 2 * model.layers.len() + 1];
        for ((part, matrix), homes) in model.matrices_by_part().zip(&policy.homes) {
            let start = segments.len();
            for (&bytes, &home) in matrix.segments.iter().zip(homes) {
                if streamed(home, inputs.hardware.shares_ram) {
                    segments.push((bytes as f64, home == Tier::Disk));
                }
            }
            let (first, _) = parts[part].unwrap_or((start, start));
            parts[part] = Some((first, segments.len()));
        }
        let mut parts: Vec<_> = parts.into_iter().map(|part| part.unwrap_or((0, 0))).collect();
        let (first, end) = parts.pop().expect("the head is the last");
        let ring = policy.ring.on(inputs.hardware.near());
        parts.extend(runs(&segments, first..end, (ring / HEAD_RUNS) as f64));
        let mut kinds = vec![0; model.layers.len()];
        for (i, kind) in costs.kinds.iter().enumerate() {
            kind.layers.iter().for_each(|&layer| kinds[layer] = i);
        }
        Stream { costs, policy, segments, parts, kinds, layers: placement.layers }
    }

    /// Seconds by which a pass takes longer than its busiest resource, since something is late.
    pub(crate) fn stall(&self, setting: &Setting, pass: &Pass) -> f64 {
        let loads = self.loads(setting, pass);
        let hw = self.costs.hardware;
        let bytes = |disk: bool| {
            let wanted = self.segments.iter().filter(|(_, from_disk)| !disk || *from_disk);
            wanted.map(|(bytes, _)| bytes).sum::<f64>()
        };
        let sum = |f: fn(&Load) -> f64| loads.iter().map(f).sum::<f64>();
        let uploads = if hw.shares_ram { 0.0 } else { bytes(false) / hw.upload_bytes_per_sec };
        let disk = sum(|l| l.disk) + bytes(true) / hw.disk.read_bytes_per_sec;
        let draft = self.costs.draft_seconds(setting, pass, &self.layers);
        let busiest = (sum(|l| l.compute) + draft).max(sum(|l| l.link) + uploads).max(disk);
        let fills = self.costs.fills_beside(setting.draft);
        let mut clock = Clock::new(self, &loads, (draft, fills));
        (0..WARM).for_each(|_| clock.pass());
        let start = clock.compute;
        (0..MEASURED).for_each(|_| clock.pass());
        let seconds = (clock.compute - start) / MEASURED as f64;
        (seconds - busiest).max(0.0)
    }

    fn loads(&self, setting: &Setting, pass: &Pass) -> Vec<Load> {
        let costs = self.costs;
        let device = &costs.hardware.device;
        let activations = if self.policy.activations == Tier::Ram { 1.0 } else { 0.0 };
        let activations = if costs.hardware.shares_ram { 0.0 } else { activations };
        let batches = Costs::micro_batches(setting, pass);
        let run = batches * (device.run_seconds + HALF_CALLS * device.call_seconds);
        let price = |kind: usize, home: Tier| {
            let kv = Tier::ALL.map(|tier| if tier == home { 1.0 } else { 0.0 });
            costs.layer(&costs.kinds[kind], setting, pass, &kv, activations)
        };
        let mut known: Vec<[Option<LayerCost>; 3]> = vec![[None; 3]; costs.kinds.len()];
        let mut loads = Vec::with_capacity(self.parts.len());
        for (&kind, &home) in self.kinds.iter().zip(&self.policy.kv_homes) {
            let LayerCost { device, terms } =
                *known[kind][home as usize].get_or_insert_with(|| price(kind, home));
            // Attention on the host runs beside the whole layer; what it adds is put before the sum.
            let overlap = Costs::host_overlap(setting, pass);
            let both = beside(device[0] + device[1], terms.host, overlap);
            let attention = both - device[1] + run;
            loads.push(Load {
                compute: attention,
                after_cache: attention / batches,
                link: terms.link(),
                disk: terms.disk(),
            });
            loads.push(Load { compute: device[1] + run, ..Load::default() });
        }
        let head = costs.head(pass) + device.pass_seconds + run;
        let runs = self.parts.len() - loads.len();
        let load = Load { compute: head / runs as f64, ..Load::default() };
        loads.extend(std::iter::repeat_n(load, runs));
        loads
    }
}

/// Cuts the head's segments into runs of `most` bytes, or one segment.
fn runs(segments: &[(f64, bool)], head: Range<usize>, most: f64) -> Vec<(usize, usize)> {
    let mut runs = vec![(head.start, head.start)];
    let mut bytes = 0.0;
    for at in head {
        let (size, _) = segments[at];
        if bytes > 0.0 && bytes + size > most {
            runs.push((at, at));
            bytes = 0.0;
        }
        bytes += size;
        runs.last_mut().expect("there is a run").1 = at + 1;
    }
    runs
}

/// When each resource is free again.
struct Clock<'a> {
    stream: &'a Stream<'a>,
    loads: &'a [Load],
    /// Seconds of the draft before each pass, and whether the device's ring fills from RAM meanwhile.
    draft: f64,
    fills: bool,
    /// When the pass began to compute.
    begun: f64,
    disk: f64,
    link: f64,
    compute: f64,
    /// When each part of every pass so far was through, and the ring bytes it held.
    done: Vec<(f64, f64)>,
    /// Parts whose ring space was given back.
    freed: usize,
    /// Bytes in the device's ring, those of the coming part included.
    held: f64,
    /// When the device's ring last had room.
    room: f64,
    /// Segments in the host's ring: bytes, and when their upload ends.
    host: VecDeque<(f64, f64)>,
    host_held: f64,
}

impl<'a> Clock<'a> {
    fn new(stream: &'a Stream<'a>, loads: &'a [Load], (draft, fills): (f64, bool)) -> Clock<'a> {
        Clock {
            stream,
            loads,
            draft,
            fills,
            begun: 0.0,
            disk: 0.0,
            link: 0.0,
            compute: 0.0,
            done: Vec::new(),
            freed: 0,
            held: 0.0,
            room: 0.0,
            host: VecDeque::new(),
            host_held: 0.0,
        }
    }

    fn pass(&mut self) {
        // Trees are grown before the pass that checks them; reads go on meanwhile, and uploads from RAM.
        self.compute += self.draft;
        self.begun = self.compute;
        for (part, (&(first, end), load)) in self.stream.parts.iter().zip(self.loads).enumerate() {
            self.disk += load.disk;
            self.link += load.link;
            let cache = if load.disk > 0.0 { self.disk } else { 0.0 }.max(if load.link > 0.0 {
                self.link
            } else {
                0.0
            });
            let (mut ready, mut bytes) = (0.0, 0.0);
            for &(size, from_disk) in &self.stream.segments[first..end] {
                self.make_room(size);
                bytes += size;
                self.held += size;
                ready = self.arrive(part, size, from_disk);
            }
            let through = self.compute.max(ready) + load.compute;
            self.compute = through.max(cache + load.after_cache);
            self.done.push((self.compute, bytes));
        }
    }

    /// Waits until the device's ring has room for `size` more bytes.
    fn make_room(&mut self, size: f64) {
        let near = self.stream.costs.hardware.near();
        let capacity = self.stream.policy.ring.on(near) as f64;
        while self.held + size > capacity && self.freed < self.done.len() {
            let (when, bytes) = self.done[self.freed];
            self.room = self.room.max(when);
            self.held -= bytes;
            self.freed += 1;
        }
    }

    /// Reads and uploads a segment; returns when it is where the device can use it.
    fn arrive(&mut self, part: usize, size: f64, from_disk: bool) -> f64 {
        let hw = self.stream.costs.hardware;
        let mut at_hand = 0.0;
        if from_disk {
            let room = if hw.shares_ram { self.room } else { self.host_room(size) };
            self.disk = self.disk.max(room) + size / hw.disk.read_bytes_per_sec;
            at_hand = self.disk;
        }
        if hw.shares_ram {
            return at_hand;
        }
        // What does not fill the ring beside a draft is uploaded beside the part before its own: the first part's
        // with the last pass.
        let waits = self.draft > 0.0 && part > 0 && (from_disk || !self.fills);
        let issued = if waits { self.begun } else { 0.0 };
        self.link =
            self.link.max(at_hand).max(self.room).max(issued) + size / hw.upload_bytes_per_sec;
        if from_disk {
            self.host_held += size;
            self.host.push_back((size, self.link));
        }
        self.link
    }

    /// When the host's ring has room for `size` more bytes.
    fn host_room(&mut self, size: f64) -> f64 {
        let capacity = self.stream.policy.ring.ram as f64;
        let mut room = 0.0;
        while self.host_held + size > capacity
            && let Some((bytes, uploaded)) = self.host.pop_front()
        {
            self.host_held -= bytes;
            room = uploaded;
        }
        room
    }
}
