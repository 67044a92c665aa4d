//! Calls to steps: handles become checked views, and each step knows its units and their cost.

use super::activations::{Corrections, GROUP, Round, Rounded};
use super::attention::{Attention, Unit};
use super::attention_rows::Rows;
use super::elementwise::{Heads, Part, STRETCH, Simple};
use super::expand::correction;
use super::linear::{Bench, Input, Product, ROW_BLOCK, Tile};
use super::memory::Memory;
use super::simd::{SimdPath, dispatch};
use super::span::Span;
use super::team::Phase;
use crate::kernel::{AttentionRow, Buffer, Call, Matrix, Projection};
use crate::quant::{Packing, TILE_ROWS};
use std::ops::Range;

/// Quantized multiply-adds per nanosecond and thread, roughly: costs only decide what is worth
/// sharing between threads.
const MACS_PER_NS: usize = 100;

/// Elements touched per nanosecond and thread, roughly.
const ELEMENTS_PER_NS: usize = 4;

/// Where handles are looked up.
pub(super) trait Lookup {
    /// A live buffer.
    fn buffer(&self, buffer: Buffer) -> Span;
    /// A live matrix and its packing.
    fn matrix(&self, matrix: Matrix) -> (Packing, Span);
}

/// One phase of a run.
pub(super) enum Step {
    /// Rounds the input of the linear step that follows.
    Round { x: Span, into: Rounded, needs: Corrections },
    /// All tiles of some of the run's products.
    Linear { products: Range<usize>, input: Input, rows: usize },
    /// Attention, and which of the run's units share it out.
    Attention(Attention, Range<usize>),
    /// Everything else.
    Simple(Simple),
}

/// Steps of a run, and what they work on; its memory is used again by the next.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) steps: Vec<Sized>,
    pub(super) phases: Vec<Phase>,
    products: Vec<Product>,
    units: Vec<Unit>,
}

/// A step, its units of work, and nanoseconds per unit.
pub(super) struct Sized {
    pub(super) step: Step,
    pub(super) units: usize,
    pub(super) cost: usize,
}

/// Bytes of the shared workspace and f32 of scratch per thread that `calls` need.
pub(super) fn needs(calls: &[Call]) -> (usize, usize) {
    calls.iter().fold((0, 0), |(space, scratch), call| match call {
        Call::Linear { rows, cols, projections, .. } if any_rounds(projections) => {
            (space.max(Rounded::bytes(*rows, *cols)), scratch)
        }
        Call::Attention { .. } => {
            let unbound = Span::none();
            let call = attention(call, |_| unbound).map_or(0, |(call, _)| call.scratch());
            (space, scratch.max(call))
        }
        _ => (space, scratch),
    })
}

fn any_rounds(projections: &[Projection]) -> bool {
    projections.iter().any(|p| !p.weight.dtype.is_float())
}

impl Plan {
    /// The steps of `calls`. Panics if a buffer is too small for its call.
    pub(super) fn fill(&mut self, calls: &[Call], lookup: &impl Lookup, workspace: &Memory) {
        self.steps.clear();
        self.products.clear();
        self.units.clear();
        for call in calls {
            match call {
                Call::Linear { x, rows, cols, projections } if *rows > 0 => {
                    let x = lookup.buffer(*x).holds::<f32>(rows * cols, "input of a linear layer");
                    self.linear(x, (*rows, *cols), projections, lookup, workspace);
                }
                Call::Linear { .. } => {}
                Call::Attention { .. } => {
                    let bound = attention(call, |buffer| lookup.buffer(buffer));
                    let step =
                        bound.map(|(call, rows)| attention_step(call, rows, &mut self.units));
                    self.steps.extend(step);
                }
                _ => self.steps.extend(simple(call, lookup)),
            }
        }
    }

    /// Runs units of step `index` with one thread's working memory.
    ///
    /// # Safety
    /// As [`Step::run`].
    pub(super) unsafe fn run(
        &self,
        index: usize,
        path: SimdPath,
        units: Range<usize>,
        bench: *mut Bench,
        scratch: *mut f32,
    ) {
        // SAFETY: passed on.
        unsafe { self.steps[index].step.run(self, path, units, bench, scratch) }
    }

    fn linear(
        &mut self,
        x: Span,
        (rows, cols): (usize, usize),
        projections: &[Projection],
        lookup: &impl Lookup,
        workspace: &Memory,
    ) {
        if any_rounds(projections) {
            let into = Rounded::new(workspace.span(), rows, cols);
            let mut needs = Corrections::default();
            projections
                .iter()
                .filter(|p| !p.weight.dtype.is_float())
                .for_each(|p| needs.insert(correction(p.weight.dtype)));
            let cost = GROUP.min(rows) * cols / ELEMENTS_PER_NS;
            let step = Step::Round { x, into, needs };
            self.steps.push(Sized { step, units: Round::units(rows), cost });
        }
        for rounded in [true, false] {
            let first = self.products.len();
            let alike = projections.iter().filter(|p| p.weight.dtype.is_float() != rounded);
            self.products.extend(alike.map(|p| product(p, rows, cols, lookup)));
            let products = first..self.products.len();
            if products.is_empty() {
                continue;
            }
            let input = if rounded {
                Input::Rounded(Rounded::new(workspace.span(), rows, cols))
            } else {
                Input::Exact(x)
            };
            let tiles: usize = self.products[first..].iter().map(|p| p.packing.tiles()).sum();
            let cost = (rows.min(ROW_BLOCK) + 4) * cols * TILE_ROWS / MACS_PER_NS;
            let units = tiles * rows.div_ceil(ROW_BLOCK);
            self.steps.push(Sized { step: Step::Linear { products, input, rows }, units, cost });
        }
    }
}

fn product(p: &Projection, rows: usize, cols: usize, lookup: &impl Lookup) -> Product {
    let (packing, weights) = lookup.matrix(p.weight);
    assert_eq!(packing.cols, cols, "projections share their input");
    let (first, stride) = (p.first, p.stride);
    assert!(first + packing.rows <= stride, "a slab lies within its matrix");
    let bias = p.bias.map(|b| lookup.buffer(b).holds::<f32>(stride, "bias"));
    let out = lookup.buffer(p.out).holds::<f32>(rows * stride, "output of a linear layer");
    Product { packing, weights, bias, out, first, stride }
}

/// The operands of an attention call with `find` applied to its buffers, and its rows.
fn attention(call: &Call, find: impl Fn(Buffer) -> Span) -> Option<(Attention, usize)> {
    #[rustfmt::skip]
    let &Call::Attention {
        q, cache, map, pages, path, out, rows, heads, layout, key_bias, scale, window, ..
    } = call else {
        return None;
    };
    assert!(
        layout.kv_heads > 0 && heads.is_multiple_of(layout.kv_heads),
        "{heads} query heads do not share {} key/value heads evenly",
        layout.kv_heads
    );
    let [q, cache, map, pages, path, out] = [q, cache, map, pages, path, out].map(&find);
    let bias = key_bias.map(|bias| (find(bias.terms), find(bias.turns)));
    let call = Attention { q, cache, map, pages, path, out, bias, heads, layout, scale, window };
    Some((call, rows))
}

fn attention_step(call: Attention, rows: usize, all: &mut Vec<Unit>) -> Sized {
    let width = call.heads * call.layout.head_dim;
    let map = call.map.holds::<AttentionRow>(rows, "attention map");
    call.q.holds::<f32>(rows * width, "queries");
    call.out.holds::<f32>(rows * width, "output of attention");
    // SAFETY: no call runs yet.
    let map = unsafe { map.slice::<AttentionRow>(0, rows) };
    let seen: usize = map
        .iter()
        .map(|row| match call.window {
            0 => row.length as usize,
            window => window.min(row.length as usize),
        })
        .sum();
    let elements = seen * (2 * call.layout.width() + width);
    let first = all.len();
    call.share_out(map, all);
    let shares = first..all.len();
    let units = shares.len();
    let cost = elements / (ELEMENTS_PER_NS * units.max(1));
    Sized { step: Step::Attention(call, shares), units, cost }
}

fn simple(call: &Call, lookup: &impl Lookup) -> Option<Sized> {
    let find = |buffer, count: usize, what| lookup.buffer(buffer).holds::<f32>(count, what);
    let (kernel, units, elements) = match *call {
        Call::RmsNorm { x, weight, out, rows, cols, eps } => {
            let x = find(x, rows * cols, "input of a norm");
            let out = find(out, rows * cols, "output of a norm");
            let weight = find(weight, cols, "weight of a norm");
            (Simple::Norm { x, weight, out, cols, eps }, rows, cols)
        }
        Call::Rope { x, angles, rows, heads, head_dim, pairs, style } => {
            assert!(2 * pairs <= head_dim, "{pairs} pairs do not fit heads of {head_dim}");
            let x = find(x, rows * heads * head_dim, "heads to rotate");
            let angles = find(angles, rows * pairs * 2, "angles");
            (Simple::Rope { x, angles, heads, head_dim, pairs, style }, rows, heads * head_dim)
        }
        Call::Rotate { x, rows, heads, head_dim } => {
            let width = heads * head_dim;
            let x = find(x, rows * width, "heads to spread");
            (Simple::Rotate { x, width, head_dim }, rows, 2 * width)
        }
        Call::BiasTerms { q, bias, out, rows, heads, kv_heads, head_dim, style } => {
            let shape = Heads { heads, kv_heads, head_dim };
            let width = heads * head_dim;
            let (q, out) = (find(q, rows * width, "queries"), find(out, rows * width, "terms"));
            let bias = find(bias, kv_heads * head_dim, "bias of keys");
            (Simple::Terms { q, bias, out, shape, style }, rows, width)
        }
        Call::Append { k, v, cache, slots, rows, layout } => {
            let width = layout.width();
            let (k, v) = (find(k, rows * width, "keys"), find(v, rows * width, "values"));
            let slots = find(slots, rows, "cache slots");
            let cache = lookup.buffer(cache);
            // Codes of 4 bits are searched for.
            let work = if layout.format.is_compressed() { 24 } else { 2 };
            (Simple::Append { k, v, cache, slots, layout }, rows, work * width)
        }
        Call::Move { cache, moves, count, layout } => {
            let moves = find(moves, 2 * count, "moves of slots");
            let cache = lookup.buffer(cache);
            // All keys are a unit, and all values.
            let units = if count > 0 { 2 } else { 0 };
            (Simple::Move { cache, moves, count, layout }, units, count * layout.width() / 2)
        }
        Call::Gate { gate, up, out, count, activation } => {
            let (gate, up) = (find(gate, count, "gate"), find(up, count, "gated values"));
            let out = find(out, count, "output of a gate");
            let kernel = Simple::Gate { gate, up, out, count, activation };
            (kernel, count.div_ceil(STRETCH), 2 * STRETCH.min(count))
        }
        Call::Add { x, y, count } => {
            let (x, y) = (find(x, count, "sum"), find(y, count, "summand"));
            (Simple::Add { x, y, count }, count.div_ceil(STRETCH), STRETCH.min(count) / 2)
        }
        Call::Gather { x, index, out, first, rows, cols } => {
            let index = find(index, rows, "row indexes");
            let out = find(out, (first + rows) * cols, "gathered rows");
            (Simple::Gather { x: lookup.buffer(x), index, out, first, cols }, rows, cols / 2)
        }
        Call::Linear { .. } | Call::Attention { .. } => return None,
    };
    Some(Sized { step: Step::Simple(kernel), units, cost: elements / ELEMENTS_PER_NS + 1 })
}

impl Step {
    /// Runs units of the step, which is one of `plan`'s, with one thread's working memory.
    ///
    /// # Safety
    /// The path is available, each unit runs once, and `bench` and `scratch` belong to this thread
    /// and are as large as [`needs`] says.
    unsafe fn run(
        &self,
        plan: &Plan,
        path: SimdPath,
        units: Range<usize>,
        bench: *mut Bench,
        scratch: *mut f32,
    ) {
        // SAFETY: passed on.
        unsafe {
            match self {
                Step::Round { x, into, needs } => {
                    dispatch(path, Round { x: *x, into: *into, needs: *needs, units });
                }
                Step::Linear { products, input, rows } => {
                    let products = &plan.products[products.clone()];
                    for unit in units {
                        dispatch(path, tile(products, *input, *rows, unit, bench));
                    }
                }
                Step::Attention(call, shares) => {
                    let units = &plan.units[shares.clone()][units];
                    dispatch(path, Rows { call, units, scratch });
                }
                Step::Simple(kernel) => dispatch(path, Part { kernel, units }),
            }
        }
    }
}

/// Unit `unit`: row blocks of a tile are neighbours, so that its weights are in cache.
fn tile(
    products: &[Product],
    input: Input,
    rows: usize,
    unit: usize,
    bench: *mut Bench,
) -> Tile<'_> {
    let blocks = rows.div_ceil(ROW_BLOCK);
    let mut tile = unit / blocks;
    let mut product = &products[0];
    for candidate in products {
        product = candidate;
        if tile < candidate.packing.tiles() {
            break;
        }
        tile -= candidate.packing.tiles();
    }
    let start = unit % blocks * ROW_BLOCK;
    Tile { product, input, rows, tile, start, end: rows.min(start + ROW_BLOCK), bench }
}
