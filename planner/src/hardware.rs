//! What the machine can do, as measured.

use crate::policy::Tier;

/// Capacities and rates of one machine; measured by `forebay calibrate`, never typed in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HardwareProfile {
    /// What computes the layers.
    pub device: DeviceRates,
    /// The processor, for attention over keys and values in RAM; equal to `device` where that is
    /// the processor itself.
    pub host: DeviceRates,
    /// Whether the device computes in host memory (a processor, a software adapter, an integrated
    /// GPU): its bytes count against RAM, and nothing is uploaded.
    pub shares_ram: bool,
    /// Copies of host memory by one thread, bytes copied (each read and written) per second.
    pub ram_bytes_per_sec: f64,
    /// RAM to device, bytes per second; 0 where memory is shared.
    pub upload_bytes_per_sec: f64,
    /// Device to RAM, bytes per second; 0 where memory is shared.
    pub download_bytes_per_sec: f64,
    /// Whether the device copies faster from memory of the host that it reaches by itself than the host writes
    /// to it: weights and pages in RAM then live there.
    pub copies_by_itself: bool,
    /// Part of the shorter of copy and compute that really runs beside the longer, 0 to 1.
    pub upload_overlap: f64,
    /// The disk that weights are streamed from.
    pub disk: DiskRates,
}

impl HardwareProfile {
    /// The tier that the device computes from.
    pub fn near(&self) -> Tier {
        if self.shares_ram { Tier::Ram } else { Tier::Device }
    }
}

/// Rates of one disk.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DiskRates {
    /// Best sustained rate of large reads, bytes per second.
    pub read_bytes_per_sec: f64,
    /// Sustained rate of large writes, synced, bytes per second.
    pub write_bytes_per_sec: f64,
    /// Reads in flight at which the best rate was reached.
    pub queue_depth: usize,
    /// Bytes of one read at which it was reached.
    pub read_bytes: u64,
    /// Whether reads past the page cache (`O_DIRECT`) were the fastest.
    pub direct: bool,
    /// Part of the shorter of reading and computing that really runs beside the longer, 0 to 1.
    pub overlap: f64,
}

/// How fast one device computes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeviceRates {
    /// Linear layers by storage type of the weights.
    pub linear: Vec<LinearRate>,
    /// Attention by format of the KV cache.
    pub attention: Vec<AttentionRate>,
    /// Everything else of a layer (norms, rotation, cache appends, gates, sums): seconds per number
    /// read or written. A row of a layer has `10 hidden + 2 q + 4 kv + 3 feed_forward` of them (`q`
    /// and `kv` the widths of queries and of keys), and `2 q + 2 kv` more with norms of heads,
    /// `4 hidden` more with norms after blocks.
    pub elementwise_seconds: f64,
    /// Turning one logit into a part of a sampled token, its way to the host included, seconds.
    pub logit_seconds: f64,
    /// The same where the likeliest token is taken; a job's share of these goes into `logit_seconds`
    /// before it is planned ([`DeviceRates::with_greedy`]).
    pub greedy_seconds: f64,
    /// Fetching and expanding the embedding of one row, seconds.
    pub embed_seconds: f64,
    /// Fixed cost of each kernel call of a list, beside all of the above, seconds. A layer has about
    /// 14: 4 linear, 1 attention, 2 norms, 2 rotations, 1 append, 1 gate, 2 sums; 2 more with norms of
    /// heads, 2 more with norms after blocks.
    pub call_seconds: f64,
    /// Fixed cost of one run of a list of calls (a submission), seconds.
    pub run_seconds: f64,
    /// Fixed cost of a pass (its maps to the device, and waiting for its end), seconds.
    pub pass_seconds: f64,
}

/// Linear layers with weights of one storage type.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LinearRate {
    /// Name of the storage type, as in model files ("Q4_K").
    pub dtype: String,
    /// (rows of a call, seconds per weight element for all these rows), by rising rows; between the
    /// points the time is linear in the rows, beyond the last it is proportional to them.
    pub points: Vec<(usize, f64)>,
}

/// Attention over a cache of one format.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AttentionRate {
    /// Name of the format ("f16").
    pub format: String,
    /// Seconds per element of keys and values that a sequence has in the cache, once per pass however
    /// many of its rows see them (`positions x 2 x kv_heads x head_dim` of each sequence): what bringing
    /// them from memory adds.
    pub stream_seconds: f64,
    /// Seconds per element of keys and values that one row sees: `positions x 2 x kv_heads x head_dim`.
    pub kv_element_seconds: f64,
    /// Seconds per product of queries with keys and weights with values:
    /// `positions x 2 x heads x head_dim`, added to the above.
    pub product_seconds: f64,
}

impl LinearRate {
    /// Seconds per weight element of a call with `rows` rows.
    pub fn seconds(&self, rows: usize) -> f64 {
        seconds_by_rows(&self.points, rows as f64)
    }
}

/// Seconds of a call or pass over `rows` rows, from (rows, seconds) points with rising rows: linear between
/// them, as for the first below it, proportional beyond the last; 0 without any.
pub fn seconds_by_rows(points: &[(usize, f64)], rows: f64) -> f64 {
    let Some(&(last_rows, last)) = points.last() else { return 0.0 };
    if rows >= last_rows as f64 {
        return last * rows / last_rows as f64;
    }
    let after = points.partition_point(|&(at, _)| at as f64 <= rows);
    let (right_rows, right) = points[after];
    let Some(&(left_rows, left)) = after.checked_sub(1).and_then(|i| points.get(i)) else {
        // Fewer rows than were measured cost as much: a call reads its weights once.
        return right;
    };
    let part = (rows - left_rows as f64) / (right_rows - left_rows) as f64;
    left + part * (right - left)
}

impl DeviceRates {
    /// These rates for a job of which the part `share` (0 to 1) of the tokens is the likeliest one.
    pub fn with_greedy(mut self, share: f64) -> DeviceRates {
        self.logit_seconds += share * (self.greedy_seconds - self.logit_seconds);
        self
    }

    /// The rate of a storage type; of the nearest thing, the first, where it was not measured.
    pub fn linear(&self, dtype: &str) -> Option<&LinearRate> {
        self.linear.iter().find(|rate| rate.dtype == dtype).or(self.linear.first())
    }

    /// The rate of a cache format; the first where it was not measured.
    pub fn attention(&self, format: &str) -> Option<&AttentionRate> {
        self.attention.iter().find(|rate| rate.format == format).or(self.attention.first())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_linear_between_points_and_proportional_beyond() {
        let points = vec![(1, 1.0), (4, 1.0), (8, 2.0)];
        let rate = LinearRate { dtype: "Q4_K".into(), points };
        let seconds: Vec<f64> = [1, 3, 6, 8, 16].iter().map(|&rows| rate.seconds(rows)).collect();
        assert_eq!(seconds, [1.0, 1.0, 1.5, 2.0, 4.0]);
    }
}
