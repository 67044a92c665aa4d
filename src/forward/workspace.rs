//! Device buffers that every pass reuses.

use crate::backend::{Device, DeviceError};
use crate::kernel::{AttentionRow, Buffer, KvFormat, TREE_DEPTH_MAX};
use crate::model::{LayerSpec, ModelSpec, RopeSpec};

/// Sizes of a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkspaceSize {
    /// Most rows of a micro-batch.
    pub micro_rows: usize,
    /// Most micro-batches of a pass.
    pub micro_batches: usize,
    /// Most rows whose logits are computed together.
    pub logit_rows: usize,
    /// Most entries of a micro-batch's page table.
    pub pages: usize,
    /// Pages of a window into caches that are not on the device; 0 if all are.
    pub window_pages: usize,
    /// Format of the caches.
    pub kv_format: KvFormat,
    /// Positions of the longest sequence.
    pub positions: usize,
    /// Whether micro-batches share one residual stream, since they rest elsewhere between turns.
    pub shared_rows: bool,
    /// Whether attention itself runs on another device, which then has what only it needs.
    pub host_attention: bool,
}

/// A cache and a micro-batch's way through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheView {
    /// One layer's pages, or a window of them.
    pub cache: Buffer,
    /// Slot of each row.
    pub slots: Buffer,
    /// Page table.
    pub pages: Buffer,
    /// Path list.
    pub path: Buffer,
    /// Moves of slots that come first, and their number.
    pub moves: Option<(Buffer, usize)>,
    /// Most positions that a row sees.
    pub longest: usize,
}

/// Buffers of a pass: what micro-batches share, and what each keeps between its turns.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// The sizes it was made with.
    pub size: WorkspaceSize,
    /// Normed copy of the residual stream, also the output of a block before it is added.
    pub normed: Buffer,
    /// Queries `[micro_rows][heads * head_dim]`.
    pub q: Buffer,
    /// Keys `[micro_rows][kv_heads * head_dim]`.
    pub k: Buffer,
    /// Values `[micro_rows][kv_heads * head_dim]`.
    pub v: Buffer,
    /// Coefficients of key biases, as `q`; of no size where no key lacks its bias.
    pub terms: Buffer,
    /// Attention output, as `q`.
    pub attention: Buffer,
    /// Gate `[micro_rows][feed_forward]`.
    pub gate: Buffer,
    /// Up `[micro_rows][feed_forward]`.
    pub up: Buffer,
    /// Input of the output head, `[logit_rows][hidden]`.
    pub head: Buffer,
    /// Logits, `[logit_rows][vocab]`.
    pub logits: Buffer,
    /// Rows that want logits, indices into a micro-batch.
    pub outputs: Buffer,
    /// Page table of a window: its pages in order.
    pub identity: Buffer,
    /// For each rotary table the turns of all positions, `[positions][2 * pairs]`; of no size where no
    /// key lacks its bias.
    pub turns: Vec<Buffer>,
    /// One for each micro-batch.
    pub micro: Vec<MicroBatch>,
}

/// What a micro-batch keeps between its turns.
#[derive(Clone, Debug)]
pub struct MicroBatch {
    /// Residual stream, `[micro_rows][hidden]`.
    pub x: Buffer,
    /// Rotary angles of each table, `[micro_rows][pairs][2]`.
    pub angles: Vec<Buffer>,
    /// Cache slots, `[micro_rows]`.
    pub slots: Buffer,
    /// Attention map, `[micro_rows]`.
    pub map: Buffer,
    /// Page table.
    pub pages: Buffer,
    /// Path list.
    pub path: Buffer,
    /// Moves of slots.
    pub moves: Buffer,
    /// Slots, path list and moves for a window.
    pub windowed: [Buffer; 3],
}

impl MicroBatch {
    /// The way through a layer's whole cache, of which `moves` slots are moved first; a row sees up to
    /// `longest` positions.
    pub fn view(&self, cache: Buffer, (moves, longest): (usize, usize)) -> CacheView {
        let MicroBatch { slots, pages, path, .. } = *self;
        CacheView { cache, slots, pages, path, moves: some(self.moves, moves), longest }
    }

    /// The same through a window that holds the pages of the micro-batch's own table, in its order.
    pub fn window_view(
        &self,
        cache: Buffer,
        identity: Buffer,
        (moves, longest): (usize, usize),
    ) -> CacheView {
        let [slots, path, moved] = self.windowed;
        CacheView { cache, slots, pages: identity, path, moves: some(moved, moves), longest }
    }
}

/// So many moves, if there are any.
pub(super) fn some(moves: Buffer, count: usize) -> Option<(Buffer, usize)> {
    (count > 0).then_some((moves, count))
}

/// Bytes of the path lists, and of the moves, of so many rows.
pub(super) fn tree_bytes(rows: usize) -> [usize; 2] {
    [rows * TREE_DEPTH_MAX * 4, rows * TREE_DEPTH_MAX * 8]
}

/// Bytes of the turns of each rotary table.
pub(super) fn turns_bytes(spec: &ModelSpec, size: WorkspaceSize) -> Vec<usize> {
    let split = |rope: usize| {
        let mut layers = (0..spec.layers.len()).filter(|&layer| spec.layers[layer].rope == rope);
        !size.host_attention && layers.any(|layer| spec.splits_key_bias(layer, size.kv_format))
    };
    let bytes = |(rope, table): (usize, &RopeSpec)| match split(rope) {
        true => size.positions * table.inv_freq.len() * 8,
        false => 0,
    };
    spec.ropes.iter().enumerate().map(bytes).collect()
}

/// The sizes of all buffers, in bytes, in the order in which they are allocated: one function for
/// the allocator and for whoever plans.
fn sizes(spec: &ModelSpec, size: WorkspaceSize) -> (Vec<(usize, &'static str)>, Vec<usize>) {
    let widest = |f: &dyn Fn(&LayerSpec) -> usize| spec.layers.iter().map(f).max().unwrap_or(0);
    let q = widest(&|l| l.heads * l.head_dim);
    let kv = widest(&|l| l.kv_heads * l.head_dim);
    let ff = widest(&|l| l.feed_forward);
    let attends = usize::from(!size.host_attention);
    let mut layers = 0..spec.layers.len();
    let splits = layers.any(|layer| spec.splits_key_bias(layer, size.kv_format));
    let rows = |width: usize, what| (size.micro_rows * width * 4, what);
    let shared = vec![
        rows(spec.hidden, "normed activations"),
        rows(q, "queries"),
        rows(kv, "keys"),
        rows(kv, "values"),
        rows(if splits { attends * q } else { 0 }, "coefficients of key biases"),
        rows(q, "attention output"),
        rows(ff, "feed-forward gate"),
        rows(ff, "feed-forward up"),
        (size.logit_rows * spec.hidden * 4, "input of the head"),
        (size.logit_rows * spec.vocab * 4, "logits"),
        rows(1, "output rows"),
        (size.window_pages * 4, "page table of a window"),
        rows(if size.shared_rows { spec.hidden } else { 0 }, "residual stream"),
    ];
    let window = usize::from(size.window_pages > 0);
    let mut micro: Vec<usize> =
        spec.ropes.iter().map(|rope| size.micro_rows * rope.inv_freq.len() * 8).collect();
    let own_rows = if size.shared_rows { 0 } else { size.micro_rows };
    let [path, moves] = tree_bytes(size.micro_rows);
    micro.extend([
        own_rows * spec.hidden * 4,
        attends * size.micro_rows * 4,
        attends * size.micro_rows * size_of::<AttentionRow>(),
        attends * size.pages * 4,
        attends * path,
        attends * moves,
        window * size.micro_rows * 4,
        window * path,
        window * moves,
    ]);
    (shared, micro)
}

impl Workspace {
    /// Bytes that [`Workspace::alloc`] takes.
    pub fn bytes(spec: &ModelSpec, size: WorkspaceSize) -> u64 {
        let (shared, micro) = sizes(spec, size);
        let shared: usize = shared.iter().map(|&(bytes, _)| bytes).sum();
        let turns: usize = turns_bytes(spec, size).iter().sum();
        (shared + turns + size.micro_batches * micro.iter().sum::<usize>()) as u64
    }

    /// Allocates all buffers.
    pub fn alloc(
        device: &mut dyn Device,
        spec: &ModelSpec,
        size: WorkspaceSize,
    ) -> Result<Workspace, DeviceError> {
        let (shared, micro) = sizes(spec, size);
        let shared = shared.into_iter().map(|(bytes, what)| device.alloc(bytes, what));
        let shared: Vec<Buffer> = shared.collect::<Result<_, _>>()?;
        let [normed, q, k, v, terms, attention, gate, up, head, logits, outputs, identity, rows] =
            shared[..]
        else {
            unreachable!("one buffer for each size")
        };
        let in_order: Vec<u32> = (0..size.window_pages as u32).collect();
        device.write(identity, 0, bytemuck::cast_slice(&in_order))?;
        let turns = turns(device, spec, size)?;
        let mut all = Vec::new();
        for _ in 0..size.micro_batches {
            let buffers = micro.iter().map(|&bytes| device.alloc(bytes, "a micro-batch"));
            let mut angles: Vec<Buffer> = buffers.collect::<Result<_, _>>()?;
            let [x, slots, map, pages, path, moves, near_slots, near_path, near_moves] =
                angles.split_off(spec.ropes.len())[..]
            else {
                unreachable!("one buffer for each size")
            };
            let windowed = [near_slots, near_path, near_moves];
            let x = if size.shared_rows { rows } else { x };
            all.push(MicroBatch { x, angles, slots, map, pages, path, moves, windowed });
        }
        let micro = all;
        Ok(Workspace {
            size,
            normed,
            q,
            k,
            v,
            terms,
            attention,
            gate,
            up,
            head,
            logits,
            outputs,
            identity,
            turns,
            micro,
        })
    }
}

/// The turns of all positions, on the device.
pub(super) fn turns(
    device: &mut dyn Device,
    spec: &ModelSpec,
    size: WorkspaceSize,
) -> Result<Vec<Buffer>, DeviceError> {
    let mut values = Vec::new();
    let each = spec.ropes.iter().zip(turns_bytes(spec, size)).map(|(rope, bytes)| {
        let buffer = device.alloc(bytes, "turns of positions")?;
        if bytes > 0 {
            super::turns(rope, size.positions, &mut values);
            device.write(buffer, 0, bytemuck::cast_slice(&values))?;
        }
        Ok(buffer)
    });
    each.collect()
}
