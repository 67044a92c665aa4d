//! Models, machines and jobs to plan for.

use forebay_planner::{
    AttentionRate, DeviceRates, DiskRates, Draft, HardwareProfile, Inputs, LayerShape,
    LinearFootprint, LinearRate, MatrixShape, ModelShape, Pins, Requests, Speculation, Split, Tier,
    Workload,
};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

/// A matrix cut into segments of whole tiles of 16 rows, at most 4 MiB each.
pub(crate) fn matrix(dtype: &str, bits: f64, rows: usize, cols: usize) -> MatrixShape {
    let row = cols as f64 * bits / 8.0;
    let tiles_max = ((4 * MIB) as f64 / (16.0 * row)).floor().max(1.0) as usize;
    let mut segments = Vec::new();
    let mut left = rows.div_ceil(16);
    while left > 0 {
        let tiles = left.min(tiles_max);
        segments.push(((tiles as f64 * 16.0 * row) as u64).next_multiple_of(4096));
        left -= tiles;
    }
    MatrixShape { dtype: dtype.into(), rows, cols, segments }
}

/// A model in the shape of Llama, 4-bit but for its head.
pub(crate) fn llama(
    layers: usize,
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    ff: usize,
    vocab: usize,
) -> ModelShape {
    let head_dim = hidden / heads;
    let q4 = |rows, cols| matrix("Q4_K", 4.5, rows, cols);
    let layer = LayerShape {
        attention: vec![
            q4(hidden, hidden),
            q4(kv_heads * head_dim, hidden),
            q4(kv_heads * head_dim, hidden),
            q4(hidden, hidden),
        ],
        feed_forward: vec![q4(ff, hidden), q4(ff, hidden), q4(hidden, ff)],
        heads,
        kv_heads,
        head_dim,
        window: None,
        feed_forward_len: ff,
    };
    ModelShape {
        layers: vec![layer; layers],
        head: matrix("Q6_K", 6.5625, vocab, hidden),
        hidden,
        vocab,
        vector_bytes: (2 * layers + 1) as u64 * hidden as u64 * 4,
        page_positions: 16,
    }
}

pub(crate) fn llama_70b() -> ModelShape {
    llama(80, 8192, 64, 8, 28672, 128256)
}

/// Sizes much as the engine's, for caches of 16 and of 4.5 bits.
pub(crate) fn footprint(model: &ModelShape) -> LinearFootprint {
    let layer = &model.layers[0];
    let widths = 2 * layer.query_len() + 2 * layer.kv_len() + 2 * layer.feed_forward_len;
    let page = |bits: u64| {
        let bytes = |l: &LayerShape| 16 * 2 * l.kv_len() as u64 * bits / 16;
        model.layers.iter().map(bytes).collect()
    };
    LinearFootprint {
        fixed: Split { device: 0, ram: 64 * MIB, disk: 0 },
        row_bytes: 512,
        micro_row_bytes: 4 * (widths + model.hidden) as u64,
        output_bytes: 64,
        activation_row_bytes: 4 * model.hidden as u64,
        windows: 2,
        pages: vec![("f16".into(), page(32)), ("q4".into(), page(9))],
        buffer_bytes: None,
    }
}

fn rates(flops: f64, bytes_per_sec: f64, kv_bytes_per_sec: f64) -> DeviceRates {
    let rate = |dtype: &str, bits: f64| {
        let at = |rows: usize| (rows, (bits / 8.0 / bytes_per_sec).max(2.0 * rows as f64 / flops));
        let points = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512].map(at).to_vec();
        LinearRate { dtype: dtype.into(), points }
    };
    let attention = |format: &str, bytes: f64| AttentionRate {
        format: format.into(),
        stream_seconds: 0.0,
        kv_element_seconds: bytes / kv_bytes_per_sec,
        product_seconds: 1.0 / flops,
    };
    DeviceRates {
        linear: vec![rate("Q4_K", 4.5), rate("Q6_K", 6.5625)],
        attention: vec![attention("f16", 2.0), attention("q4", 0.6)],
        elementwise_seconds: 4.0 / bytes_per_sec,
        logit_seconds: 1e-10,
        greedy_seconds: 1e-10,
        embed_seconds: 1e-6,
        call_seconds: 0.0,
        run_seconds: 2e-5,
        pass_seconds: 5e-4,
    }
}

/// A graphics card on PCIe 4 beside a desktop processor and an NVMe disk.
pub(crate) fn desktop() -> HardwareProfile {
    HardwareProfile {
        device: rates(60e12, 800e9, 500e9),
        host: rates(1e12, 50e9, 30e9),
        shares_ram: false,
        ram_bytes_per_sec: 30e9,
        upload_bytes_per_sec: 22e9,
        download_bytes_per_sec: 20e9,
        copies_by_itself: true,
        upload_overlap: 0.9,
        disk: DiskRates {
            read_bytes_per_sec: 5e9,
            write_bytes_per_sec: 2e9,
            queue_depth: 4,
            read_bytes: 4 * MIB,
            direct: true,
            overlap: 0.95,
        },
    }
}

/// Two cores without a graphics card.
pub(crate) fn processor() -> HardwareProfile {
    let host = rates(0.4e12, 20e9, 10e9);
    HardwareProfile {
        device: host.clone(),
        host,
        shares_ram: true,
        upload_bytes_per_sec: 0.0,
        download_bytes_per_sec: 0.0,
        disk: DiskRates { read_bytes_per_sec: 1.5e9, write_bytes_per_sec: 0.3e9, ..desktop().disk },
        ..desktop()
    }
}

pub(crate) fn workload(requests: &[(usize, usize, usize)]) -> Workload {
    let requests =
        requests.iter().map(|&(prompt, output, count)| Requests { prompt, output, count });
    Workload { requests: requests.collect(), ..Workload::default() }
}

/// A draft of so many bytes that a pass takes `seconds` for, in RAM and on the device if that has
/// memory of its own (there at a tenth of the time); gains as measured for a 70B model and its small
/// sibling (Sequoia, arXiv 2402.12374, table of greedy trees).
pub(crate) fn speculation(bytes: u64, seconds: f64, shares_ram: bool) -> Speculation {
    let draft = |home: Tier, seconds: f64| Draft {
        home,
        is_target: false,
        pass_seconds: vec![(1, seconds), (32, seconds), (128, 2.0 * seconds)],
        bytes: Split::all(home, bytes),
        page_bytes: Split::all(home, bytes / 65536),
        row_bytes: Split::all(home, 4096),
    };
    let mut drafts = vec![draft(Tier::Ram, seconds)];
    if !shares_ram {
        drafts.push(draft(Tier::Device, seconds / 10.0));
    }
    Speculation {
        budgets: vec![0, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048],
        gain: vec![(0, 1.0), (4, 2.9), (16, 4.5), (64, 5.9), (256, 7.3), (1024, 8.6)],
        rounds: vec![(1, 1.0), (16, 6.0), (64, 9.0), (256, 13.0), (1024, 18.0)],
        draft_rows: 1.2,
        outputs: 1.5,
        nodes_max: 1024,
        lookup_bytes: 0,
        drafts,
    }
}

/// Owned parts of [`Inputs`].
pub(crate) struct Case {
    pub(crate) model: ModelShape,
    pub(crate) footprint: LinearFootprint,
    pub(crate) hardware: HardwareProfile,
    pub(crate) workload: Workload,
    pub(crate) budgets: Split,
    pub(crate) formats: Vec<String>,
    pub(crate) pins: Pins,
}

impl Case {
    pub(crate) fn new(
        model: ModelShape,
        hardware: HardwareProfile,
        workload: Workload,
        budgets: [u64; 3],
    ) -> Case {
        let [device, ram, disk] = budgets;
        Case {
            footprint: footprint(&model),
            model,
            hardware,
            workload,
            budgets: Split { device, ram, disk },
            formats: vec!["f16".into()],
            pins: Pins::default(),
        }
    }

    pub(crate) fn inputs(&self) -> Inputs<'_> {
        Inputs {
            model: &self.model,
            footprint: &self.footprint,
            hardware: &self.hardware,
            workload: &self.workload,
            budgets: self.budgets,
            kv_formats: &self.formats,
            pins: &self.pins,
        }
    }
}

/// A seeded stream of numbers (splitmix64), so that random cases are the same everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// From `low` to `high`, evenly by their ratio.
    pub(crate) fn between(&mut self, low: f64, high: f64) -> f64 {
        low * (high / low).powf(self.unit())
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}
