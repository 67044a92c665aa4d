//! What a pass costs: one function per term of FlexGen's cost model (arXiv 2303.06865, section 4.3),
//! repaired. Linear layers and attention take measured seconds that depend on the rows of a call, so
//! memory-bound and launch-bound calls are priced as they are; key and value heads, gated
//! feed-forwards and the output head are counted; weights and cache have their real bytes; keys and
//! values off the device are attended to on the host or brought to the device; resources overlap by
//! the part that was measured.

use crate::footprint::HEAD_ROWS;
use crate::hardware::{HardwareProfile, LinearRate};
use crate::inputs::Inputs;
use crate::kind::{FLOAT, Kind};
use crate::memory::RingShape;
use crate::passes::Pass;
use crate::plan::Terms;
use crate::setting::{Fractions, KvMode, Placement, Setting};
use crate::shape::{MatrixShape, Part};

/// Kernel calls of half a layer, on average.
pub(crate) const HALF_CALLS: f64 = (Part::Attention.calls() + Part::FeedForward.calls()) / 2.0;

/// Seconds of a layer without its weights' travels.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LayerCost {
    /// Device seconds of the two halves.
    pub(crate) device: [f64; 2],
    /// Everything else; its `device` is the sum of the above.
    pub(crate) terms: Terms,
}

/// Prices passes on one machine.
pub(crate) struct Costs<'a> {
    pub(crate) hardware: &'a HardwareProfile,
    pub(crate) kinds: Vec<Kind>,
    /// Distinct windows of the model.
    pub(crate) windows: Vec<usize>,
    /// Storage types of the matrices, and their rates.
    dtypes: Vec<(String, LinearRate)>,
    /// (seconds per element of keys and values, per product) of each format on device and host.
    attention: Vec<[(f64, f64, f64); 2]>,
    layer_count: f64,
    /// (storage type, elements) of all layers' matrices.
    linear: Vec<(usize, f64)>,
    head: (usize, f64),
    pub(crate) layer_bytes: f64,
    pub(crate) head_bytes: f64,
    /// Bytes of each half of each layer.
    pub(crate) half_bytes: Vec<f64>,
    /// Bytes of the largest segment of the layers, and of the whole model.
    pub(crate) layer_segment: u64,
    pub(crate) segment: u64,
    hidden: f64,
    vocab: f64,
    page_positions: f64,
    /// Index of the draft that is the target itself.
    target_draft: Option<usize>,
}

/// Time of two things of which the part `overlap` of the shorter runs beside the longer.
pub(crate) fn beside(a: f64, b: f64, overlap: f64) -> f64 {
    a.max(b) + (1.0 - overlap) * a.min(b)
}

impl<'a> Costs<'a> {
    pub(crate) fn new(inputs: &Inputs<'a>) -> Costs<'a> {
        let (model, hardware) = (inputs.model, inputs.hardware);
        let rates = |format: &String| {
            [&hardware.device, &hardware.host].map(|side| {
                let rate = side.attention(format).expect("profiles are checked");
                (rate.stream_seconds, rate.kv_element_seconds, rate.product_seconds)
            })
        };
        let mut costs = Costs {
            hardware,
            kinds: Vec::new(),
            windows: Vec::new(),
            dtypes: Vec::new(),
            attention: inputs.kv_formats.iter().map(rates).collect(),
            layer_count: model.layers.len() as f64,
            linear: Vec::new(),
            head: (0, model.head.elements()),
            layer_bytes: model.layer_bytes() as f64,
            head_bytes: model.head.bytes() as f64,
            layer_segment: model.layer_segments().max().unwrap_or(0),
            segment: model.largest_segment(),
            half_bytes: model.half_bytes().map(|bytes| bytes as f64).collect(),
            hidden: model.hidden as f64,
            vocab: model.vocab as f64,
            page_positions: model.page_positions as f64,
            target_draft: inputs.workload.target_draft(),
        };
        costs.head.0 = costs.dtype(&model.head.dtype);
        for layer in 0..model.layers.len() {
            costs.add_layer(inputs, layer);
        }
        let halves = |kind: &Kind| {
            let count = kind.layers.len() as f64;
            let all = kind.linear.iter().flatten();
            all.map(|&(dtype, elements)| (dtype, elements * count)).collect::<Vec<_>>()
        };
        costs.linear = summed(costs.kinds.iter().flat_map(halves));
        costs
    }

    fn dtype(&mut self, name: &str) -> usize {
        self.dtypes.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            let rate = self.hardware.device.linear(name).expect("profiles are checked");
            self.dtypes.push((name.to_owned(), rate.clone()));
            self.dtypes.len() - 1
        })
    }

    /// Joins a layer to its kind, or opens one.
    fn add_layer(&mut self, inputs: &Inputs<'_>, index: usize) {
        let (model, footprint) = (inputs.model, inputs.footprint);
        let layer = &model.layers[index];
        let page_bytes = |format: &String| footprint.page_bytes(index, format);
        let page_bytes: Vec<u64> = inputs.kv_formats.iter().map(page_bytes).collect();
        let spilled = |format: &String| footprint.spilled_page_bytes(index, format);
        let spilled_bytes = inputs.kv_formats.iter().map(spilled).collect();
        let same = |kind: &&mut Kind| {
            model.layers[kind.layers[0]] == *layer && kind.page_bytes == page_bytes
        };
        if let Some(kind) = self.kinds.iter_mut().find(same) {
            return kind.layers.push(index);
        }
        let linear = Part::ALL.map(|part| {
            let of = |m: &MatrixShape| (self.dtype(&m.dtype), m.elements());
            summed(layer.part(part).iter().map(of).collect::<Vec<_>>())
        });
        let window = layer.window.unwrap_or(usize::MAX);
        let window = self.windows.iter().position(|&w| w == window).unwrap_or_else(|| {
            self.windows.push(window);
            self.windows.len() - 1
        });
        self.kinds.push(Kind {
            layers: vec![index],
            linear,
            touched: Part::ALL.map(|part| layer.touched_floats(part, model.hidden) as f64),
            kv_elements: 2.0 * layer.kv_len() as f64,
            products: 2.0 * layer.query_len() as f64,
            query_len: layer.query_len() as f64,
            kv_len: layer.kv_len() as f64,
            window,
            page_bytes,
            spilled_bytes,
        });
    }

    /// Seconds of linear layers over `rows` rows in micro-batches (equation comp, first summand: rows
    /// times parameters, at the measured rate of so many rows).
    fn linear(&self, matrices: &[(usize, f64)], rows: f64, micro_batch: usize) -> f64 {
        let size = micro_batch as f64;
        let full = (rows / size).floor();
        let rest = rows - full * size;
        let (below, part) = (rest.floor(), rest.fract());
        let mut seconds = 0.0;
        for &(dtype, elements) in matrices {
            let rate = |rows: f64| {
                if rows < 1.0 { 0.0 } else { self.dtypes[dtype].1.seconds(rows as usize) }
            };
            // Rows are a mean over passes, so the rest is between two whole numbers.
            let of_rest = (1.0 - part) * rate(below)
                + if part > 0.0 { part * rate(below + 1.0) } else { 0.0 };
            let of_full = if full > 0.0 { full * rate(size) } else { 0.0 };
            seconds += elements * (of_full + of_rest);
        }
        seconds
    }

    /// Seconds of attention of one layer on the device or the host (equation comp, second summand:
    /// keys and values at a streaming rate, and the products with them).
    pub(crate) fn attend(&self, kind: &Kind, setting: &Setting, pass: &Pass, host: bool) -> f64 {
        let (stream, kv, product) = self.attention[setting.format][usize::from(host)];
        let there = pass.pages_read * self.page_positions * kind.kv_elements;
        there * stream + pass.seen[kind.window] * (kind.kv_elements * kv + kind.products * product)
    }

    /// Micro-batches of a pass.
    pub(crate) fn micro_batches(setting: &Setting, pass: &Pass) -> f64 {
        (pass.rows() / setting.micro_batch as f64).ceil().max(1.0)
    }

    /// Seconds of one layer of a kind whose cache is placed as `kv`.
    pub(crate) fn layer(
        &self,
        kind: &Kind,
        setting: &Setting,
        pass: &Pass,
        kv: &Fractions,
        activations: f64,
    ) -> LayerCost {
        let half = |half: usize| {
            self.linear(&kind.linear[half], pass.rows(), setting.micro_batch)
                + pass.rows() * kind.touched[half] * self.hardware.device.elementwise_seconds
        };
        let (attention, feed_forward) = (half(0), half(1));
        self.kv_cost(kind, setting, pass, kv, activations, [attention, feed_forward])
    }

    /// Attention and the travels of cache and activations, on top of `device` seconds.
    fn kv_cost(
        &self,
        kind: &Kind,
        setting: &Setting,
        pass: &Pass,
        kv: &Fractions,
        activations: f64,
        mut device: [f64; 2],
    ) -> LayerCost {
        let hw = self.hardware;
        let spilled = kind.spilled_bytes[setting.format] as f64;
        // In memory that the device shares, RAM is in its reach.
        let away = if hw.shares_ram { kv[2] } else { kv[1] + kv[2] };
        let on_host = setting.kv_mode == KvMode::Host;
        let mut terms = Terms {
            disk_read: kv[2] * pass.pages_read * spilled / hw.disk.read_bytes_per_sec,
            disk_write: kv[2] * pass.pages_written * spilled / hw.disk.write_bytes_per_sec,
            ..Terms::default()
        };
        if on_host {
            terms.host = self.attend(kind, setting, pass, true);
        } else {
            device[0] += self.attend(kind, setting, pass, false);
        }
        if !hw.shares_ram {
            let [up, down] = kind.link_bytes(setting, pass);
            let moved = 2.0 * activations * pass.rows() * self.hidden * FLOAT;
            // Rows that rest in RAM and pages on their way to the disk are waited for, once for each
            // micro-batch; a device copies to a cache in RAM by itself.
            let waits = Costs::micro_batches(setting, pass) * hw.device.pass_seconds;
            terms.upload = (away * up + moved) / hw.upload_bytes_per_sec;
            terms.download =
                (away * down + moved) / hw.download_bytes_per_sec + (kv[2] + activations) * waits;
        }
        terms.device = device[0] + device[1];
        LayerCost { device, terms }
    }

    /// Device seconds of the head and of what surrounds the layers.
    pub(crate) fn head(&self, pass: &Pass) -> f64 {
        let device = &self.hardware.device;
        let head = self.linear(&[self.head], pass.outputs, HEAD_ROWS);
        head + pass.outputs * self.vocab * device.logit_seconds + pass.rows() * device.embed_seconds
    }

    /// Part of the passes that run the head, and so stream it.
    pub(crate) fn head_share(pass: &Pass) -> f64 {
        pass.outputs.min(1.0)
    }

    /// Fixed seconds of a pass: each half of each layer, and the head, is a submission per micro-batch.
    fn fixed(&self, setting: &Setting, pass: &Pass) -> f64 {
        let device = &self.hardware.device;
        let batches = Costs::micro_batches(setting, pass);
        let runs = batches * (2.0 * self.layer_count + 1.0);
        let calls = batches * 2.0 * self.layer_count * HALF_CALLS;
        device.pass_seconds + runs * device.run_seconds + calls * device.call_seconds
    }

    /// Seconds by which weights on disk and in RAM are on their way (dtoc and ctog, first summands).
    fn streaming(&self, pass: &Pass, at: &Placement) -> Terms {
        let hw = self.hardware;
        let head = self.head_bytes * Costs::head_share(pass);
        let bytes = |tier: usize| at.layers[tier] * self.layer_bytes + at.head[tier] * head;
        let disk_read = bytes(2) / hw.disk.read_bytes_per_sec;
        let uploaded = if hw.shares_ram { 0.0 } else { bytes(1) + bytes(2) };
        let upload = if uploaded > 0.0 { uploaded / hw.upload_bytes_per_sec } else { 0.0 };
        Terms { disk_read, upload, ..Terms::default() }
    }

    /// Terms of one pass that no placement changes.
    pub(crate) fn base(&self, setting: &Setting, pass: &Pass) -> Terms {
        let touched = |kind: &Kind| kind.layers.len() as f64 * (kind.touched[0] + kind.touched[1]);
        let touched = self.kinds.iter().map(touched).sum::<f64>() * pass.rows();
        let device = self.linear(&self.linear, pass.rows(), setting.micro_batch)
            + touched * self.hardware.device.elementwise_seconds
            + self.head(pass);
        let fixed = self.fixed(setting, pass);
        // A target that drafts for itself would take less with fewer layers at hand, and be wrong more often,
        // of which the program knows nothing: as if all were there.
        let draft = self.draft_seconds(setting, pass, &[1.0; 3]);
        Terms { device, fixed, draft, ..Terms::default() }
    }

    /// Whether a draft is the target itself.
    pub(crate) fn drafts_itself(&self, draft: Option<usize>) -> bool {
        draft.is_some() && draft == self.target_draft
    }

    /// Whether a device's ring fills from RAM while a draft computes.
    pub(crate) fn fills_beside(&self, draft: Option<usize>) -> bool {
        self.hardware.copies_by_itself && !self.drafts_itself(draft)
    }

    /// Seconds that the draft takes in a pass, with the layers' weights placed so.
    pub(crate) fn draft_seconds(&self, setting: &Setting, pass: &Pass, layers: &Fractions) -> f64 {
        let seconds = setting.draft.and_then(|draft| pass.draft.get(draft)).copied().unwrap_or(0.0);
        if !self.drafts_itself(setting.draft) {
            return seconds;
        }
        let at_hand = if self.hardware.shares_ram { layers[1] } else { layers[0] };
        let part = at_hand * self.layer_bytes + self.head_bytes;
        seconds * part / (self.layer_bytes + self.head_bytes)
    }

    /// The other terms; linear in the placement.
    pub(crate) fn placed(&self, setting: &Setting, pass: &Pass, at: &Placement) -> Terms {
        let mut terms = self.streaming(pass, at);
        for (kind, kv) in self.kinds.iter().zip(&at.kv) {
            let layer = self.kv_cost(kind, setting, pass, kv, at.activations, [0.0; 2]);
            terms += layer.terms * kind.layers.len() as f64;
        }
        terms
    }

    /// Part of attention on the host that runs beside the device: with `n` micro-batches one waits
    /// while the others compute.
    pub(crate) fn host_overlap(setting: &Setting, pass: &Pass) -> f64 {
        1.0 - 1.0 / Costs::micro_batches(setting, pass)
    }

    /// Seconds of a whole job, about: nothing is late but what a draft keeps from arriving.
    pub(crate) fn job_seconds(&self, setting: &Setting, passes: &[Pass], at: &Placement) -> f64 {
        let ring = self.ring_seconds(setting, at);
        let seconds = |pass: &Pass| {
            let terms = self.base(setting, pass) + self.placed(setting, pass, at);
            let seconds = self.seconds(setting, pass, &terms);
            if terms.draft == 0.0 {
                return pass.count * seconds;
            }
            // No ring is emptied while the draft computes, so what arrives beside it fills one at most.
            let without = self.seconds(setting, pass, &Terms { draft: 0.0, ..terms });
            pass.count * seconds.max(without + (terms.draft - ring).max(0.0))
        };
        passes.iter().map(seconds).sum()
    }

    /// Seconds in which an empty ring of weights fills while a draft computes.
    fn ring_seconds(&self, setting: &Setting, at: &Placement) -> f64 {
        let hw = self.hardware;
        let ring = RingShape::new(&self.half_bytes, 0.0, setting).layers;
        let read = ring * at.layers[2] / hw.disk.read_bytes_per_sec;
        // What comes from disk is uploaded by the pass itself.
        let uploaded = if self.fills_beside(setting.draft) { ring * at.layers[1] } else { 0.0 };
        if hw.shares_ram { read } else { read.max(uploaded / hw.upload_bytes_per_sec) }
    }

    /// Seconds of a pass of these terms (T = max of all terms in the paper; here of what overlaps).
    pub(crate) fn seconds(&self, setting: &Setting, pass: &Pass, terms: &Terms) -> f64 {
        let hw = self.hardware;
        let busy = beside(terms.compute(), terms.host, Costs::host_overlap(setting, pass));
        let fed = beside(busy, terms.link(), hw.upload_overlap);
        beside(fed, terms.disk(), hw.disk.overlap)
    }
}

/// Elements summed by storage type.
fn summed(matrices: impl IntoIterator<Item = (usize, f64)>) -> Vec<(usize, f64)> {
    let mut sums: Vec<(usize, f64)> = Vec::new();
    for (dtype, elements) in matrices {
        match sums.iter_mut().find(|(known, _)| *known == dtype) {
            Some((_, sum)) => *sum += elements,
            None => sums.push((dtype, elements)),
        }
    }
    sums
}
