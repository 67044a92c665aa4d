//! Device buffers that every pass reuses.

use crate::backend::{Device, DeviceError};
use crate::kernel::{AttentionRow, Buffer, PAGE_LEN};
use crate::model::ModelSpec;

/// Activations and maps of a pass of up to `rows` rows.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// Most rows of a pass.
    pub rows: usize,
    /// Most rows of one logits slice.
    pub logit_rows: usize,
    /// Residual stream, `[rows][hidden]`.
    pub x: Buffer,
    /// Normed copy of it, also the output of a block before it is added.
    pub normed: Buffer,
    /// Queries `[rows][heads * head_dim]`.
    pub q: Buffer,
    /// Keys `[rows][kv_heads * head_dim]`.
    pub k: Buffer,
    /// Values `[rows][kv_heads * head_dim]`.
    pub v: Buffer,
    /// Attention output, as `q`.
    pub attention: Buffer,
    /// Gate `[rows][feed_forward]`.
    pub gate: Buffer,
    /// Up `[rows][feed_forward]`.
    pub up: Buffer,
    /// Logits of one slice, `[logit_rows][vocab]`.
    pub logits: Buffer,
    /// Rotary angles of each table, `[rows][pairs][2]`.
    pub angles: Vec<Buffer>,
    /// Cache slots, `[rows]`.
    pub slots: Buffer,
    /// Attention map, `[rows]`.
    pub map: Buffer,
    /// Page table.
    pub pages: Buffer,
    /// Path list.
    pub path: Buffer,
    /// Rows that want logits.
    pub outputs: Buffer,
}

/// Rows whose logits are computed and fetched together.
const LOGIT_ROWS: usize = 64;

impl Workspace {
    /// Allocates for passes of up to `rows` rows whose page tables hold up to `pages` entries.
    pub fn alloc(
        device: &mut dyn Device,
        spec: &ModelSpec,
        rows: usize,
        pages: usize,
    ) -> Result<Workspace, DeviceError> {
        let widest = |f: &dyn Fn(&crate::model::LayerSpec) -> usize| {
            spec.layers.iter().map(f).max().unwrap_or(0)
        };
        let q_width = widest(&|l| l.heads * l.head_dim);
        let kv_width = widest(&|l| l.kv_heads * l.head_dim);
        let ff_width = widest(&|l| l.feed_forward);
        let logit_rows = LOGIT_ROWS.min(rows);
        let mut floats = |count: usize, what: &str| device.alloc(count * 4, what);
        Ok(Workspace {
            rows,
            logit_rows,
            x: floats(rows * spec.hidden, "residual stream")?,
            normed: floats(rows * spec.hidden, "normed activations")?,
            q: floats(rows * q_width, "queries")?,
            k: floats(rows * kv_width, "keys")?,
            v: floats(rows * kv_width, "values")?,
            attention: floats(rows * q_width, "attention output")?,
            gate: floats(rows * ff_width, "feed-forward gate")?,
            up: floats(rows * ff_width, "feed-forward up")?,
            logits: floats(logit_rows * spec.vocab, "logits")?,
            angles: spec
                .ropes
                .iter()
                .map(|rope| floats(rows * rope.inv_freq.len() * 2, "rotary angles"))
                .collect::<Result<_, _>>()?,
            slots: floats(rows, "cache slots")?,
            map: floats(rows * size_of::<AttentionRow>() / 4, "attention map")?,
            pages: floats(pages, "page table")?,
            path: floats(rows * PAGE_LEN, "tree paths")?,
            outputs: floats(rows, "output rows")?,
        })
    }
}
