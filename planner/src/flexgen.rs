//! FlexGen's cost model (arXiv 2303.06865, section 4.3) exactly as its released code computes it.
//!
//! It is the yardstick that this planner's own model starts from and departs from: uniform lengths,
//! 16-bit weights, multi-head attention, two feed-forward matrices, no head, no fixed costs, and
//! reads, uploads and downloads that partly add up. Kept so that published figures can be
//! reproduced; plans are made with [`plan`](crate::plan).

/// Bytes of a GiB; FlexGen's rates and capacities are given in GiB.
const GIB: f64 = (1u64 << 30) as f64;
/// One tera-operation.
const TERA: f64 = 1e12;

/// A transformer as FlexGen sees it: equal layers of four square and two feed-forward matrices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Model {
    /// Width of the residual stream, h1.
    pub hidden: f64,
    /// Attention heads, nh.
    pub heads: f64,
    /// Layers, l.
    pub layers: f64,
}

/// A block of equal requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Block {
    /// Prompt tokens, s.
    pub prompt: f64,
    /// Generated tokens, n.
    pub output: f64,
    /// Sequences that the GPU computes together, gbs.
    pub gpu_batch: f64,
    /// Such batches that share one load of the weights, nb.
    pub gpu_batches: f64,
}

/// Fractions on GPU and CPU; the rest is on disk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Percent {
    /// Weights on (GPU, CPU).
    pub weights: (f64, f64),
    /// KV cache on (GPU, CPU).
    pub cache: (f64, f64),
    /// Activations on (GPU, CPU).
    pub hidden: (f64, f64),
}

impl Percent {
    /// From FlexGen's six whole percents: weights, cache and activations on GPU and CPU.
    pub fn new(percent: [u8; 6]) -> Percent {
        let at = |i: usize| (f64::from(percent[i]) / 100.0, f64::from(percent[i + 1]) / 100.0);
        Percent { weights: at(0), cache: at(2), hidden: at(4) }
    }
}

/// Rates of the machine, bytes and operations per second; named as in FlexGen's code.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are those of the released code; see `Machine::t4`")]
pub struct Machine {
    pub ctog_bdw: f64,
    pub gtoc_bdw_cache: f64,
    pub gtoc_bdw_hidden: f64,
    pub dtoc_bdw: f64,
    pub ctod_bdw_cache_p: f64,
    pub ctod_bdw_hidden_p: f64,
    pub ctod_bdw_g: f64,
    pub mm_flops_p: f64,
    pub mm_flops_g: f64,
    pub bmm_flops_p: f64,
    pub bmm_flops_g: f64,
    pub cpu_flops: f64,
    /// c1, c2, c3 of the processor's slowdown on small batches and wide models.
    pub cpu_slowdown: [f64; 3],
}

impl Machine {
    /// The constants that FlexGen's authors fitted to a T4 instance.
    pub fn t4() -> Machine {
        Machine {
            ctog_bdw: 12.89 * GIB,
            gtoc_bdw_cache: 0.97 * GIB,
            gtoc_bdw_hidden: 4.82 * GIB,
            dtoc_bdw: 0.473 * GIB,
            ctod_bdw_cache_p: 0.746 * GIB,
            ctod_bdw_hidden_p: 2.015 * GIB,
            ctod_bdw_g: 2.015 * GIB,
            mm_flops_p: 21.24 * TERA,
            mm_flops_g: 4.3 * TERA,
            bmm_flops_p: 9.97 * TERA,
            bmm_flops_g: 0.079 * TERA,
            cpu_flops: 0.0123 * TERA,
            cpu_slowdown: [0.0168, 0.0328, 0.0621],
        }
    }

    /// cpu_flops_real: slower for batches below 64 and models wider than 4096.
    fn cpu_flops(&self, model: &Model, block: &Block) -> f64 {
        let [c1, c2, c3] = self.cpu_slowdown;
        let a = (64.0 / block.gpu_batch).log2().max(0.0);
        let b = (4096.0 / model.hidden).log2().max(0.0);
        self.cpu_flops * (1.0 + c1 * a * b - c2 * a - c3 * b).max(0.1)
    }
}

/// Seconds of one layer in one phase: uploads, downloads, disk reads, disk writes, computation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerTerms {
    /// RAM to GPU.
    pub ctog: f64,
    /// GPU to RAM.
    pub gtoc: f64,
    /// Disk to RAM.
    pub dtoc: f64,
    /// RAM to disk.
    pub ctod: f64,
    /// GPU and CPU computation, which the model adds up.
    pub comp: f64,
}

/// Most bytes on each tier in one phase.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peaks {
    /// GPU memory.
    pub gpu: f64,
    /// Host memory.
    pub cpu: f64,
    /// Disk.
    pub disk: f64,
}

/// Everything that the model predicts about one block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// Terms of the prompt's pass.
    pub prefill: LayerTerms,
    /// Terms of one decoding pass.
    pub decode: LayerTerms,
    /// Tpre, seconds of a layer's prefill.
    pub prefill_seconds: f64,
    /// Tgen, seconds of a layer's decoding pass.
    pub decode_seconds: f64,
    /// T, seconds of the block.
    pub seconds: f64,
    /// Generated tokens per second.
    pub tokens_per_second: f64,
    /// Memory in prefill.
    pub prefill_peaks: Peaks,
    /// Memory in decoding.
    pub decode_peaks: Peaks,
}

/// A case with short names for what every formula uses.
struct Case<'a> {
    machine: &'a Machine,
    h1: f64,
    h2: f64,
    nh: f64,
    l: f64,
    s: f64,
    n: f64,
    gbs: f64,
    bls: f64,
    /// Bytes of a layer's weights.
    w: f64,
    /// Real processor rate.
    cpu_flops: f64,
    w_on: [f64; 3],
    c_on: [f64; 3],
    h_on: [f64; 3],
}

/// Predicts one block.
pub fn predict(model: &Model, block: &Block, percent: &Percent, machine: &Machine) -> Prediction {
    let (h1, h2) = (model.hidden, 4.0 * model.hidden);
    let on = |(gpu, cpu): (f64, f64)| [gpu, cpu, 1.0 - gpu - cpu];
    let case = Case {
        machine,
        h1,
        h2,
        nh: model.heads,
        l: model.layers,
        s: block.prompt,
        n: block.output,
        gbs: block.gpu_batch,
        bls: block.gpu_batch * block.gpu_batches,
        w: 8.0 * h1 * h1 + 4.0 * h1 * h2,
        cpu_flops: machine.cpu_flops(model, block),
        w_on: on(percent.weights),
        c_on: on(percent.cache),
        h_on: on(percent.hidden),
    };
    let (prefill, decode) = (case.prefill(), case.decode());
    // The read path and the write path each serialise; in decoding weights are not overlapped.
    let reads = prefill.ctog + prefill.dtoc;
    let prefill_seconds = reads.max(prefill.gtoc + prefill.ctod).max(prefill.comp);
    let beside = decode.gtoc.max(decode.dtoc).max(decode.ctod).max(decode.comp);
    let decode_seconds = decode.ctog + beside;
    let seconds = prefill_seconds * case.l + decode_seconds * (case.n - 1.0) * case.l;
    Prediction {
        prefill,
        decode,
        prefill_seconds,
        decode_seconds,
        seconds,
        tokens_per_second: case.bls * case.n / seconds,
        prefill_peaks: case.prefill_peaks(),
        decode_peaks: case.decode_peaks(),
    }
}

impl Case<'_> {
    fn prefill(&self) -> LayerTerms {
        let Case { machine: m, h1, h2, s, bls, w, .. } = *self;
        let ([_, wc, wd], [_, cc, cd], [_, hc, hd]) = (self.w_on, self.c_on, self.h_on);
        let (cache, hidden) = (4.0 * (s + 1.0) * h1 * bls, 2.0 * s * h1 * bls);
        let linear = bls * (8.0 * s * h1 * h1 + 4.0 * s * h1 * h2);
        LayerTerms {
            ctog: ((wc + wd) * w + (hc + hd) * hidden) / m.ctog_bdw,
            gtoc: (cc + cd) * cache / m.gtoc_bdw_cache + (hc + hd) * hidden / m.gtoc_bdw_hidden,
            dtoc: (wd * w + hd * hidden) / m.dtoc_bdw,
            ctod: cd * cache / m.ctod_bdw_cache_p + hd * hidden / m.ctod_bdw_hidden_p,
            comp: linear / m.mm_flops_p + 4.0 * bls * s * s * h1 / m.bmm_flops_p,
        }
    }

    fn decode(&self) -> LayerTerms {
        let Case { machine: m, h1, h2, s, n, bls, w, .. } = *self;
        let ([_, wc, wd], [cg, cc, cd], [_, hc, hd]) = (self.w_on, self.c_on, self.h_on);
        let (cache, hidden) = (4.0 * bls * (s + n / 2.0) * h1, 2.0 * h1 * bls);
        let linear = bls * (8.0 * h1 * h1 + 4.0 * h1 * h2);
        let attention = cg * cache / m.bmm_flops_g + (cc + cd) * cache / self.cpu_flops;
        LayerTerms {
            ctog: ((wc + wd) * w + (hc + hd) * hidden) / m.ctog_bdw,
            gtoc: (hc + hd) * hidden / m.gtoc_bdw_hidden,
            dtoc: (cd * cache + hd * hidden) / m.dtoc_bdw + wd * w / (0.95 * m.dtoc_bdw),
            ctod: (4.0 * cd * bls * h1 + hd * hidden) / m.ctod_bdw_g,
            comp: linear / m.mm_flops_g + attention,
        }
    }

    /// Bytes on disk: the same in both phases but for the activations.
    fn disk(&self, positions: f64) -> f64 {
        let Case { h1, l, s, n, bls, w, .. } = *self;
        let cache = 4.0 * (s + n) * h1 * bls * l;
        w * l * self.w_on[2] + 2.0 * positions * h1 * bls * self.h_on[2] + cache * self.c_on[2]
    }

    fn prefill_peaks(&self) -> Peaks {
        let Case { h1, h2, nh, l, s, n, gbs, bls, w, .. } = *self;
        let ([wg, wc, _], [cg, cc, _], [hg, hc, _]) = (self.w_on, self.c_on, self.h_on);
        let hidden = 2.0 * s * h1;
        let home = wg * w * l + hidden * bls * hg + 4.0 * (s + n) * h1 * bls * l * cg;
        let attention = gbs * (hidden + 2.0 * nh * s * s);
        let qkv = 8.0 * gbs * s * h1;
        let outputs = (2.0 + 4.0 + 2.0) * gbs * s * h1;
        let inter = qkv + attention + outputs + 2.0 * gbs * s * h2;
        let cpu_home = wc * w * l + hidden * bls * hc + 4.0 * s * h1 * bls * l * cc;
        Peaks {
            gpu: home + 2.0 * (1.0 - wg) * w + (1.0 - hg) * hidden * gbs + inter,
            cpu: cpu_home + (1.0 - wg) * w + (1.0 - hg) * hidden * gbs,
            disk: self.disk(s),
        }
    }

    fn decode_peaks(&self) -> Peaks {
        let Case { h1, h2, nh, l, s, n, gbs, bls, w, .. } = *self;
        let ([wg, wc, wd], [cg, cc, cd], [hg, hc, hd]) = (self.w_on, self.c_on, self.h_on);
        let cache = 4.0 * (s + n) * h1 * bls * l;
        let home = wg * w * l + 2.0 * h1 * bls * hg + cache * cg;
        let scores = cg * gbs * (2.0 * h1 + 2.0 * (s + n) * h1 + 2.0 * nh * (s + n));
        let values = cg * gbs * (2.0 * (s + n) * h1 + 2.0 * h1);
        let inter = (8.0 + 4.0 + 2.0) * gbs * h1 + 2.0 * gbs * h2 + scores + values;
        let moved = (1.0 - hg) * 2.0 * h1 * gbs + 4.0 * gbs * (s + n) * h1 * cg;
        let cpu_home = wc * w * l + 2.0 * h1 * bls * hc + cache * cc;
        let cpu_work = wd * w + 4.0 * hd * h1 * gbs + 8.0 * cd * (s + n) * h1 * gbs;
        Peaks {
            gpu: home + 2.0 * (1.0 - wg) * w + moved + inter,
            cpu: cpu_home + cpu_work + 2.0 * nh * (s + n) * gbs + 2.0 * h1 * gbs,
            disk: self.disk(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPT_6B: Model = Model { hidden: 4096.0, heads: 32.0, layers: 32.0 };
    const OPT_30B: Model = Model { hidden: 7168.0, heads: 56.0, layers: 48.0 };
    const OPT_175B: Model = Model { hidden: 12288.0, heads: 96.0, layers: 96.0 };

    fn case(model: &Model, s: f64, gbs: f64, nb: f64, percent: [u8; 6], m: &Machine) -> Prediction {
        let block = Block { prompt: s, output: 32.0, gpu_batch: gbs, gpu_batches: nb };
        predict(model, &block, &Percent::new(percent), m)
    }

    /// The T4 with the disk that the paper really had.
    fn faster_disk() -> Machine {
        Machine { dtoc_bdw: 2.6 * GIB, ctod_bdw_cache_p: GIB, ..Machine::t4() }
    }

    /// A printed figure is met within 1 % or half a unit of its last digit.
    fn meets(value: f64, printed: &str) {
        let expected: f64 = printed.parse().unwrap();
        let digits = printed.split_once('.').map_or(0, |(_, digits)| digits.len());
        let bar = (0.01 * expected.abs()).max(0.5 * 0.1f64.powi(digits as i32) + 1e-12);
        assert!((value - expected).abs() <= bar, "{value} is not {printed}");
    }

    #[test]
    fn published_times_come_out() {
        let (off, disk) = ([0, 50, 0, 0, 0, 100], [20, 80, 0, 100, 0, 100]);
        // Tpre, Tgen, ctog^g, dtoc^g, comp^g, tokens per second.
        type Row<'a> = (&'a Model, f64, f64, f64, [u8; 6], [&'a str; 6]);
        let rows: &[Row<'_>] = &[
            (&OPT_30B, 512., 48., 3., disk, ["4.389", "0.2924", ".0714", "0", ".2210", "7.14"]),
            (
                &OPT_30B,
                1024.,
                20.,
                4.,
                [4, 96, 0, 100, 0, 100],
                ["4.997", "0.314", ".0856", "0", ".2282", "3.62"],
            ),
            (
                &OPT_30B,
                256.,
                160.,
                2.,
                [10, 90, 0, 100, 0, 100],
                ["4.816", "0.375", ".0805", "0", ".2947", "12.97"],
            ),
            (
                &OPT_175B,
                512.,
                32.,
                8.,
                off,
                ["22.694", "17.099", ".2623", "16.8368", ".7742", "0.15"],
            ),
            (
                &OPT_175B,
                1024.,
                12.,
                12.,
                off,
                ["25.903", "18.511", ".2621", "18.2490", ".7713", "0.08"],
            ),
            (
                &OPT_175B,
                256.,
                64.,
                8.,
                off,
                ["22.528", "17.496", ".2627", "17.2332", ".9880", "0.30"],
            ),
            (
                &OPT_6B,
                512.,
                2.,
                1.,
                [100, 0, 100, 0, 100, 0],
                ["0.0203", ".0004", "0", "0", ".0004", "60.85"],
            ),
        ];
        for &(model, s, gbs, nb, percent, printed) in rows {
            let p = case(model, s, gbs, nb, percent, &Machine::t4());
            let decode = [p.decode.ctog, p.decode.dtoc, p.decode.comp];
            let found = [p.prefill_seconds, p.decode_seconds, decode[0], decode[1], decode[2]];
            found.iter().zip(printed).for_each(|(&value, printed)| meets(value, printed));
            meets(p.tokens_per_second, printed[5]);
        }
    }

    #[test]
    fn a_faster_disk_gives_the_measured_rates_of_the_largest_model() {
        for (s, gbs, nb, printed) in
            [(512., 32., 8., "0.68"), (1024., 12., 12., "0.35"), (256., 64., 8., "1.33")]
        {
            let p = case(&OPT_175B, s, gbs, nb, [0, 50, 0, 0, 0, 100], &faster_disk());
            meets(p.tokens_per_second, printed);
        }
    }

    #[test]
    fn published_terms_and_peaks_come_out() {
        let t4 = Machine::t4();
        let p = case(&OPT_30B, 512., 48., 3., [20, 80, 0, 100, 0, 100], &t4);
        for (value, printed) in [
            (p.prefill.ctog, ".1476"),
            (p.prefill.gtoc, "2.2378"),
            (p.prefill.comp, "4.3890"),
            (p.seconds, "645.764"),
            (p.prefill_peaks.gpu / GIB, "18.769"),
            (p.decode_peaks.gpu / GIB, "12.870"),
            (p.prefill_peaks.cpu / GIB, "140.831"),
            (p.decode_peaks.cpu / GIB, "144.512"),
        ] {
            meets(value, printed);
        }
        let p = case(&OPT_175B, 512., 32., 8., [0, 50, 0, 0, 0, 100], &t4);
        for (value, printed) in [
            (p.prefill.ctog, ".4946"),
            (p.prefill.gtoc, "6.8201"),
            (p.prefill.dtoc, "3.5677"),
            (p.prefill.ctod, "8.0586"),
            (p.prefill_peaks.cpu / GIB, "168.75"),
            (p.decode_peaks.cpu / GIB, "165.29"),
            (p.decode_peaks.disk / GIB, "774.0"),
        ] {
            meets(value, printed);
        }
    }
}
