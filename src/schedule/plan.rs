//! A model's weights as a schedule sees them: which part needs what, and what streams where.

use super::part::{Homes, Matrices, Part, head_tensor};
use super::ring::{Gate, Piece, Place, RingTooSmall, lay_out, ring_bytes_min};
use crate::model::{ModelSpec, TensorId};
use crate::quant::Segment;
use forebay_planner::Tier;
use std::ops::Range;

/// A segment of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piecework {
    /// The matrix.
    pub tensor: TensorId,
    /// Which of its segments.
    pub index: usize,
    /// Its rows and bytes.
    pub segment: Segment,
    /// Index into [`StreamPlan::streams`] if it does not live on the device.
    pub stream: Option<usize>,
}

/// A part and its segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartPlan {
    /// Which part.
    pub part: Part,
    /// All its segments, in order.
    pub segments: Vec<Piecework>,
    /// The streams among them.
    pub streams: Range<usize>,
}

/// A segment that is brought to the device in every pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The matrix.
    pub tensor: TensorId,
    /// Which of its segments.
    pub index: usize,
    /// Bytes it takes in rings and files.
    pub bytes: usize,
    /// Where it lives: RAM or disk.
    pub home: Tier,
    /// Index of the part that needs it.
    pub part: usize,
    /// Its place in the device's ring; the gate names parts.
    pub place: Place,
    /// Its place in the host's ring, for a stream from disk to a device with memory of its own; the
    /// gate names streams.
    pub host_place: Option<Place>,
}

/// Sizes of the rings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingSizes {
    /// Bytes of the ring on the device.
    pub device: usize,
    /// Bytes of the ring in RAM that reads land in; 0 where the device computes in RAM.
    pub host: usize,
}

/// What streams, in the order of a pass, and where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamPlan {
    /// The parts of a pass, in order.
    pub parts: Vec<PartPlan>,
    /// The streams of a pass, in order.
    pub streams: Vec<Stream>,
    /// Home of each layer's cache.
    pub caches: Vec<Tier>,
    /// Whether the residual stream rests in RAM between the turns of micro-batches.
    pub rows_in_ram: bool,
    /// The rings.
    pub rings: RingSizes,
    /// Whether the device computes in host memory.
    pub shares_ram: bool,
    /// Whether attention runs on the host, beside the device.
    pub host_attention: bool,
}

/// Parts of the head stream in runs of at most this many bytes, or one segment.
fn head_run_bytes(rings: RingSizes) -> usize {
    rings.device / 3
}

impl StreamPlan {
    /// Plans the streams of a model whose weights live at `homes`.
    ///
    /// # Errors
    /// If a ring cannot hold what one part needs.
    pub fn new(
        spec: &ModelSpec,
        matrices: &Matrices,
        homes: &Homes,
        rings: RingSizes,
        shares_ram: bool,
    ) -> Result<StreamPlan, RingTooSmall> {
        let parts = parts(spec, matrices, homes, head_run_bytes(rings));
        let caches = vec![Tier::Device; spec.layers.len()];
        let mut plan = StreamPlan {
            parts,
            streams: Vec::new(),
            caches,
            rows_in_ram: false,
            rings,
            shares_ram,
            host_attention: matrices.host_attention(),
        };
        plan.streams = streams(&plan.parts, homes);
        let pieces = plan.device_pieces();
        for (stream, place) in plan.streams.iter_mut().zip(lay_out(&pieces, rings.device)?) {
            stream.place = place;
        }
        if !shares_ram {
            plan.lay_out_host()?;
        }
        Ok(plan)
    }

    /// What travels through the device's ring: used by parts.
    fn device_pieces(&self) -> Vec<Piece> {
        self.streams.iter().map(|s| Piece { bytes: s.bytes, used_by: s.part }).collect()
    }

    fn lay_out_host(&mut self) -> Result<(), RingTooSmall> {
        let disk: Vec<usize> = (0..self.streams.len())
            .filter(|&index| self.streams[index].home == Tier::Disk)
            .collect();
        let piece = |&index: &usize| Piece { bytes: self.streams[index].bytes, used_by: index };
        let pieces: Vec<Piece> = disk.iter().map(piece).collect();
        for (index, place) in disk.into_iter().zip(lay_out(&pieces, self.rings.host)?) {
            self.streams[index].host_place = Some(place);
        }
        Ok(())
    }

    /// The smallest rings with which these homes stream: each holds what one part needs, and a host
    /// ring one segment.
    pub fn rings_min(
        spec: &ModelSpec,
        matrices: &Matrices,
        homes: &Homes,
        shares_ram: bool,
    ) -> RingSizes {
        let parts = parts(spec, matrices, homes, 0);
        let streams = streams(&parts, homes);
        let of = |s: &Stream| Piece { bytes: s.bytes, used_by: s.part };
        let device = ring_bytes_min(&streams.iter().map(of).collect::<Vec<_>>());
        let disk = streams.iter().filter(|s| s.home == Tier::Disk).map(|s| s.bytes);
        RingSizes { device, host: if shares_ram { 0 } else { disk.max().unwrap_or(0) } }
    }

    /// Whether any part of the head streams: its logits are then computed for all rows at once.
    pub fn head_streams(&self) -> bool {
        let heads = self.parts.iter().filter(|p| matches!(p.part, Part::Head(_)));
        heads.into_iter().any(|part| !part.streams.is_empty())
    }

    /// Whether the residual stream of a pass of so many micro-batches rests in RAM; that of a single
    /// one stays on the device, which has room for it.
    pub fn rows_rest(&self, micro_batches: usize) -> bool {
        self.rows_in_ram && micro_batches > 1
    }

    /// Layers whose weights and cache are all where the device computes.
    pub fn resident_layers(&self) -> Vec<usize> {
        let here = |layer: &usize| {
            let halves = &self.parts[2 * layer..2 * layer + 2];
            let weights = halves.iter().all(|part| part.streams.is_empty());
            weights && self.caches[*layer] == Tier::Device && !self.host_attention
        };
        (0..self.caches.len()).filter(here).collect()
    }

    /// Bytes that one pass brings from `tier` to the device.
    pub fn bytes_from(&self, tier: Tier) -> u64 {
        self.streams.iter().filter(|s| s.home == tier).map(|s| s.bytes as u64).sum()
    }

    /// Whether stream `index` of pass `pass` may be written into the device's ring once `released`
    /// parts (counted over all passes) have been released.
    pub fn is_open(&self, index: usize, pass: usize, released: usize) -> bool {
        is_open(self.streams[index].place.gate, pass, self.parts.len(), released)
    }

    /// Whether stream `index` of pass `pass` may be read into the host's ring once `uploads` streams
    /// (counted over all passes) have been uploaded.
    pub fn host_is_open(&self, index: usize, pass: usize, uploads: usize) -> bool {
        let place = self.streams[index].host_place;
        place.is_some_and(|place| is_open(place.gate, pass, self.streams.len(), uploads))
    }

    /// The streams that reads bring, in order.
    pub fn reads(&self) -> impl Iterator<Item = (usize, &Stream)> {
        self.streams.iter().enumerate().filter(|(_, stream)| stream.home == Tier::Disk)
    }

    /// Packed bytes of all segments at home on `tier`.
    pub fn bytes_at(&self, homes: &Homes, tier: Tier) -> u64 {
        let all = self.parts.iter().flat_map(|part| &part.segments);
        let there = all.filter(|s| homes.of(s.tensor, s.index) == tier);
        there.map(|s| s.segment.bytes as u64).sum()
    }
}

/// Whether `ended` uses, counted over all rounds of `round` uses, are enough for a gate.
fn is_open(gate: Gate, round: usize, uses: usize, ended: usize) -> bool {
    match round.checked_sub(usize::from(gate.round_before)) {
        Some(round) => ended > round * uses + gate.used_by,
        None => true,
    }
}

/// The parts of a pass; the head in runs whose streams take up to `head_run` bytes.
fn parts(spec: &ModelSpec, matrices: &Matrices, homes: &Homes, head_run: usize) -> Vec<PartPlan> {
    let mut parts = Vec::new();
    let mut next_stream = 0;
    let mut take = |part: Part, of: Vec<(TensorId, usize, Segment)>| {
        let first = next_stream;
        let piecework = of.into_iter().map(|(tensor, index, segment)| {
            let streams = homes.of(tensor, index) != Tier::Device;
            let stream = streams.then_some(next_stream);
            next_stream += usize::from(streams);
            Piecework { tensor, index, segment, stream }
        });
        let segments: Vec<Piecework> = piecework.collect();
        parts.push(PartPlan { part, segments, streams: first..next_stream });
    };
    let segments = |tensor: TensorId| {
        let all = matrices.segments(tensor).into_iter().enumerate();
        all.map(move |(index, segment)| (tensor, index, segment)).collect::<Vec<_>>()
    };
    for layer in 0..spec.layers.len() {
        for part in [Part::Attention(layer), Part::FeedForward(layer)] {
            take(part, matrices.tensors(spec, part).into_iter().flat_map(segments).collect());
        }
    }
    for (index, run) in
        head_runs(segments(head_tensor(spec)), homes, head_run).into_iter().enumerate()
    {
        take(Part::Head(index), run);
    }
    parts
}

/// Cuts the head's segments into runs.
fn head_runs(
    all: Vec<(TensorId, usize, Segment)>,
    homes: &Homes,
    most: usize,
) -> Vec<Vec<(TensorId, usize, Segment)>> {
    let mut runs: Vec<Vec<_>> = vec![Vec::new()];
    let mut bytes = 0;
    for item in all {
        let streams = homes.of(item.0, item.1) != Tier::Device;
        let padded = if streams { item.2.padded() } else { 0 };
        if bytes > 0 && padded > 0 && bytes + padded > most {
            runs.push(Vec::new());
            bytes = 0;
        }
        bytes += padded;
        runs.last_mut().expect("there is a run").push(item);
    }
    runs
}

/// The streams of all parts, not yet placed.
fn streams(parts: &[PartPlan], homes: &Homes) -> Vec<Stream> {
    let nowhere = Place { offset: 0, gate: Gate { used_by: 0, round_before: true } };
    let all = parts.iter().enumerate().flat_map(|(at, part)| {
        let streamed = part.segments.iter().filter(|s| s.stream.is_some());
        streamed.map(move |s| (at, s))
    });
    all.map(|(part, s)| Stream {
        tensor: s.tensor,
        index: s.index,
        bytes: s.segment.padded(),
        home: homes.of(s.tensor, s.index),
        part,
        place: nowhere,
        host_place: None,
    })
    .collect()
}
