//! Attention itself, apart from the projections around it: on the layer's own device, or on the host.

use super::CacheView;
use super::workspace::{WorkspaceSize, some, tree_bytes, turns, turns_bytes};
use crate::backend::{Device, DeviceError};
use crate::kernel::{AttentionRow, Buffer, Call, KeyBias, KvFormat};
use crate::model::{LayerSpec, ModelSpec};

/// What one layer's attention over one micro-batch works on; shapes as in [`super::Workspace`].
#[derive(Clone, Copy, Debug)]
pub struct Operands {
    /// Queries, rotated by position.
    pub q: Buffer,
    /// Keys, rotated by position.
    pub k: Buffer,
    /// Values.
    pub v: Buffer,
    /// Coefficients of key biases.
    pub terms: Buffer,
    /// Receives what attention makes of each row.
    pub out: Buffer,
    /// Turns of the layer's rotary table.
    pub turns: Buffer,
    /// What each row attends to.
    pub map: Buffer,
    /// The keys' bias, `[kv_heads * head_dim]`, where the layer has one.
    pub key_bias: Option<Buffer>,
    /// The way through the cache.
    pub view: CacheView,
}

/// Adds calls that store the keys and values of `rows` rows and attend to all that each row sees.
pub fn attend_calls(
    spec: &ModelSpec,
    index: usize,
    format: KvFormat,
    operands: &Operands,
    rows: usize,
    calls: &mut Vec<Call>,
) {
    let Operands { q, k, v, terms, out, turns, map, key_bias, view } = *operands;
    let LayerSpec { heads, kv_heads, head_dim, rope, .. } = spec.layers[index];
    let layout = spec.layers[index].cache(format);
    let split = spec.splits_key_bias(index, format);
    let key_bias = key_bias.filter(|_| split).map(|bias| {
        let (out, style) = (terms, spec.ropes[rope].style);
        calls.push(Call::BiasTerms { q, bias, out, rows, heads, kv_heads, head_dim, style });
        KeyBias { terms, turns }
    });
    if format.rotates() {
        // Products of queries and keys stay as they are; what comes of values is turned back.
        for (x, heads) in [(q, heads), (k, kv_heads), (v, kv_heads)] {
            calls.push(Call::Rotate { x, rows, heads, head_dim });
        }
    }
    let CacheView { cache, slots, pages, path, moves, longest } = view;
    calls.extend(moves.map(|(moves, count)| Call::Move { cache, moves, count, layout }));
    calls.push(Call::Append { k, v, cache, slots, rows, layout });
    calls.push(Call::Attention {
        q,
        cache,
        map,
        pages,
        path,
        out,
        rows,
        longest,
        heads,
        layout,
        key_bias,
        scale: spec.layers[index].attention_scale,
        window: spec.layers[index].window.unwrap_or(0),
    });
    if format.rotates() {
        calls.push(Call::Rotate { x: out, rows, heads, head_dim });
    }
}

/// Buffers of attention on a device of its own, for one micro-batch at a time.
#[derive(Clone, Debug)]
pub struct AttendSpace {
    /// Queries `[micro_rows][heads * head_dim]`.
    pub q: Buffer,
    /// Keys `[micro_rows][kv_heads * head_dim]`.
    pub k: Buffer,
    /// Values, as keys.
    pub v: Buffer,
    /// Coefficients of key biases, as queries; of no size where no key lacks its bias.
    pub terms: Buffer,
    /// What attention makes of each row, as queries.
    pub out: Buffer,
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
    /// For each rotary table the turns of all positions.
    pub turns: Vec<Buffer>,
}

impl AttendSpace {
    fn sizes(spec: &ModelSpec, size: WorkspaceSize) -> [usize; 10] {
        let widest = |f: &dyn Fn(&LayerSpec) -> usize| spec.layers.iter().map(f).max().unwrap_or(0);
        let q = size.micro_rows * widest(&|l| l.heads * l.head_dim) * 4;
        let kv = size.micro_rows * widest(&|l| l.kv_heads * l.head_dim) * 4;
        let splits = (0..spec.layers.len()).any(|l| spec.splits_key_bias(l, size.kv_format));
        let terms = if splits { q } else { 0 };
        let rows = size.micro_rows;
        let map = rows * size_of::<AttentionRow>();
        let [path, moves] = tree_bytes(rows);
        [q, kv, kv, terms, q, rows * 4, map, size.pages * 4, path, moves]
    }

    /// Bytes that [`AttendSpace::alloc`] takes.
    pub fn bytes(spec: &ModelSpec, size: WorkspaceSize) -> u64 {
        let turns: usize = turns_bytes(spec, size).iter().sum();
        (AttendSpace::sizes(spec, size).iter().sum::<usize>() + turns) as u64
    }

    /// Allocates all buffers.
    pub fn alloc(
        device: &mut dyn Device,
        spec: &ModelSpec,
        size: WorkspaceSize,
    ) -> Result<AttendSpace, DeviceError> {
        let mut all = [Buffer(0); 10];
        for (buffer, bytes) in all.iter_mut().zip(AttendSpace::sizes(spec, size)) {
            *buffer = device.alloc(bytes, "attention on the host")?;
        }
        let [q, k, v, terms, out, slots, map, pages, path, moves] = all;
        let turns = turns(device, spec, size)?;
        Ok(AttendSpace { q, k, v, terms, out, slots, map, pages, path, moves, turns })
    }

    /// One over buffers that do not exist: to ask a device what its calls would need.
    pub fn sketch(spec: &ModelSpec) -> AttendSpace {
        let b = Buffer(0);
        let turns = vec![b; spec.ropes.len()];
        AttendSpace {
            q: b,
            k: b,
            v: b,
            terms: b,
            out: b,
            slots: b,
            map: b,
            pages: b,
            path: b,
            moves: b,
            turns,
        }
    }

    /// Operands of a layer with this cache, of which `moves` slots are moved first, whose rows see up to
    /// `longest` positions, and this bias of its keys.
    pub fn operands(
        &self,
        layer: &LayerSpec,
        (cache, moves, longest): (Buffer, usize, usize),
        key_bias: Option<Buffer>,
    ) -> Operands {
        let AttendSpace { q, k, v, terms, out, slots, map, pages, path, .. } = *self;
        let moves = some(self.moves, moves);
        let view = CacheView { cache, slots, pages, path, moves, longest };
        Operands { q, k, v, terms, out, turns: self.turns[layer.rope], map, key_bias, view }
    }
}
