//! The closed set of steps. A pass is a list of them; `exec` is the one interpreter.

use super::part::Part;
use super::plan::{Stream, StreamPlan};
use forebay_planner::Tier;
use std::fmt;

/// One step of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Fetch a micro-batch's embeddings and write its maps.
    Embed {
        /// Which micro-batch.
        micro: usize,
    },
    /// Copy a stream into the device's ring.
    Upload {
        /// Index into [`StreamPlan::streams`].
        stream: usize,
        /// Whether it is for the next pass.
        next_pass: bool,
    },
    /// Wait until all streams of a part are where they are used.
    Await {
        /// Index into [`StreamPlan::parts`].
        part: usize,
    },
    /// Bring a micro-batch's pages of a layer's cache into a window, where they do not live on the
    /// device.
    LoadPages {
        /// The layer.
        layer: usize,
        /// Which micro-batch.
        micro: usize,
    },
    /// Wait until those pages are there.
    AwaitPages {
        /// The layer.
        layer: usize,
        /// Which micro-batch.
        micro: usize,
    },
    /// Bring the pages that a micro-batch wrote to back to where they live.
    StorePages {
        /// The layer.
        layer: usize,
        /// Which micro-batch.
        micro: usize,
    },
    /// Bring a micro-batch's residual stream to the device, where it rests in RAM.
    LoadRows {
        /// Which micro-batch.
        micro: usize,
    },
    /// Bring it back.
    StoreRows {
        /// Which micro-batch.
        micro: usize,
    },
    /// Hand a micro-batch's queries, keys and values to the host, which attends while the device goes on.
    Attend {
        /// The layer.
        layer: usize,
        /// Which micro-batch.
        micro: usize,
    },
    /// Wait for what the host made of them, and bring it to the device.
    AwaitAttention {
        /// The layer.
        layer: usize,
        /// Which micro-batch.
        micro: usize,
    },
    /// Run a layer's part over a micro-batch.
    Run {
        /// Index into [`StreamPlan::parts`].
        part: usize,
        /// Which micro-batch.
        micro: usize,
    },
    /// Let the places of a part's streams be written again.
    Release {
        /// Index into [`StreamPlan::parts`].
        part: usize,
    },
    /// Collect and norm a slice of the rows that want logits.
    Gather {
        /// Which slice.
        slice: usize,
    },
    /// Compute a part of the head over the collected rows.
    Head {
        /// Index into [`StreamPlan::parts`].
        part: usize,
        /// Which slice.
        slice: usize,
    },
    /// Hand out a slice's logits.
    Logits {
        /// Which slice.
        slice: usize,
    },
}

impl Step {
    /// Whether it is an upload that was made before its pass began, with all of the first `ahead` streams.
    pub fn is_made(self, ahead: usize) -> bool {
        matches!(self, Step::Upload { stream, next_pass: false } if stream < ahead)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Step::Embed { micro } => write!(f, "embed micro-batch {micro}"),
            Step::Upload { stream, next_pass: false } => write!(f, "upload {stream}"),
            Step::Upload { stream, next_pass: true } => {
                write!(f, "upload {stream} of the next pass")
            }
            Step::Await { part } => write!(f, "await part {part}"),
            Step::LoadPages { layer, micro } => write!(f, "load pages {layer}/{micro}"),
            Step::AwaitPages { layer, micro } => write!(f, "await pages {layer}/{micro}"),
            Step::StorePages { layer, micro } => write!(f, "store pages {layer}/{micro}"),
            Step::LoadRows { micro } => write!(f, "load rows of micro-batch {micro}"),
            Step::StoreRows { micro } => write!(f, "store rows of micro-batch {micro}"),
            Step::Attend { layer, micro } => write!(f, "attend {layer}/{micro}"),
            Step::AwaitAttention { layer, micro } => write!(f, "await attention {layer}/{micro}"),
            Step::Run { part, micro } => write!(f, "run part {part}, micro-batch {micro}"),
            Step::Release { part } => write!(f, "release part {part}"),
            Step::Gather { slice } => write!(f, "gather rows of slice {slice}"),
            Step::Head { part, slice } => write!(f, "head, part {part}, slice {slice}"),
            Step::Logits { slice } => write!(f, "logits of slice {slice}"),
        }
    }
}

/// Sizes of one pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PassShape {
    /// Micro-batches that take turns.
    pub micro_batches: usize,
    /// Slices of rows that want logits; more than one only while the head does not stream.
    pub slices: usize,
}

/// What must happen before the first pass: uploads that later passes find done by the one before.
pub fn prologue(plan: &StreamPlan) -> Vec<Step> {
    let shape = PassShape { micro_batches: 1, slices: 1 };
    let ahead = pass_steps(plan, shape).into_iter().filter_map(|step| match step {
        Step::Upload { stream, next_pass: true } => Some(Step::Upload { stream, next_pass: false }),
        _ => None,
    });
    ahead.collect()
}

/// The first streams of a pass that can be uploaded before it begins, while nothing computes: they are at
/// home in RAM, and their places in the ring are free once the pass before is through.
pub fn streams_ahead(plan: &StreamPlan) -> usize {
    let free = |stream: &&Stream| stream.home == Tier::Ram && stream.place.gate.round_before;
    if plan.shares_ram { 0 } else { plan.streams.iter().take_while(free).count() }
}

/// Those of [`streams_ahead`] that the pass before has not uploaded already.
pub fn uploads_ahead(plan: &StreamPlan) -> impl Iterator<Item = usize> {
    let done = |stream: &usize| plan.streams[*stream].part == 0 && is_early(plan, *stream);
    (0..streams_ahead(plan)).filter(move |stream| !done(stream))
}

/// The steps of a pass: FlexGen's zig-zag (Sheng et al. 2023, section 4.1) over ragged micro-batches.
///
/// The weights of a part serve all micro-batches in turn. Uploads for the next part are spread over
/// the turns of this one, as far as the ring has room (the last part's go to the next pass); nothing
/// waits for all of them but the part that needs them.
///
/// Where attention runs on the host, it has all of a part's turns to catch up: the device projects for all
/// micro-batches, and takes what comes back as it feeds them forward.
pub fn pass_steps(plan: &StreamPlan, shape: PassShape) -> Vec<Step> {
    let mut steps: Vec<Step> =
        (0..shape.micro_batches).map(|micro| Step::Embed { micro }).collect();
    let heads = plan.parts.iter().filter(|p| matches!(p.part, Part::Head(_))).count();
    let layers = plan.parts.len() - heads;
    let rests = plan.rows_rest(shape.micro_batches);
    let turns = turns(plan, shape.micro_batches);
    let mut turn = turns.iter().peekable();
    steps.extend(turns.first().map(|&(layer, micro)| Step::LoadPages { layer, micro }));
    for part in 0..layers {
        arrive(plan, part, &mut steps);
        let ahead = uploads_beside(plan, part);
        for micro in 0..shape.micro_batches {
            let away = turn.next_if(|&&at| plan.parts[part].part == Part::Attention(at.0));
            // Two windows: the next turn's pages come while this one's are used. A device that computes in
            // RAM is asked to compute and does it; another is first given what to compute meanwhile.
            let next = away.and_then(|_| turn.peek());
            let next = next.map(|&&(layer, micro)| Step::LoadPages { layer, micro });
            steps.extend(next.filter(|_| plan.shares_ram));
            steps.extend(away.map(|&(layer, micro)| Step::AwaitPages { layer, micro }));
            let [handed, taken] = attention_beside(plan, part, micro);
            steps.extend(taken);
            steps.extend(rests.then_some(Step::LoadRows { micro }));
            steps.push(Step::Run { part, micro });
            steps.extend(next.filter(|_| !plan.shares_ram));
            // Projections leave the residual stream as it was.
            steps.extend((rests && handed.is_none()).then_some(Step::StoreRows { micro }));
            steps.extend(handed);
            steps.extend(away.map(|&(layer, micro)| Step::StorePages { layer, micro }));
            steps.extend(share(&ahead, micro, shape.micro_batches));
        }
        steps.push(Step::Release { part });
    }
    // A pass without logits lets the head's streams come and go unused.
    for slice in 0..shape.slices.max(1) {
        let (wanted, last) = (slice < shape.slices, slice + 1 >= shape.slices);
        steps.extend(wanted.then_some(Step::Gather { slice }));
        for part in layers..plan.parts.len() {
            arrive(plan, part, &mut steps);
            steps.extend(wanted.then_some(Step::Head { part, slice }));
            if last {
                steps.extend(uploads_beside(plan, part));
                steps.push(Step::Release { part });
            }
        }
        steps.extend(wanted.then_some(Step::Logits { slice }));
    }
    steps
}

/// The steps that compute `slices` slices of logits once a pass is through.
///
/// # Panics
/// If the head streams: it has come and gone.
pub fn head_steps(plan: &StreamPlan, slices: usize) -> Vec<Step> {
    assert!(!plan.head_streams(), "the head is to stay where logits are asked for later");
    let heads = plan.parts.iter().filter(|part| matches!(part.part, Part::Head(_))).count();
    let parts = plan.parts.len() - heads..plan.parts.len();
    let slice = |slice| {
        let heads = parts.clone().map(move |part| Step::Head { part, slice });
        [Step::Gather { slice }].into_iter().chain(heads).chain([Step::Logits { slice }])
    };
    (0..slices).flat_map(slice).collect()
}

/// The steps of one micro-batch through the resident layers alone and the head, beside which streams go on
/// arriving: the model as a draft of its own.
///
/// # Panics
/// If the head streams.
pub fn resident_steps(plan: &StreamPlan, slices: usize) -> Vec<Step> {
    let halves = plan.resident_layers().into_iter().flat_map(|layer| [2 * layer, 2 * layer + 1]);
    let runs = halves.map(|part| Step::Run { part, micro: 0 });
    [Step::Embed { micro: 0 }].into_iter().chain(runs).chain(head_steps(plan, slices)).collect()
}

/// What is handed to the host after a micro-batch's turn on a part, and taken from it before.
fn attention_beside(plan: &StreamPlan, part: usize, micro: usize) -> [Option<Step>; 2] {
    match plan.parts[part].part {
        Part::Attention(layer) if plan.host_attention => {
            [Some(Step::Attend { layer, micro }), None]
        }
        Part::FeedForward(layer) if plan.host_attention => {
            [None, Some(Step::AwaitAttention { layer, micro })]
        }
        _ => [None, None],
    }
}

/// Layers and micro-batches whose pages come through windows, in the order of a pass.
fn turns(plan: &StreamPlan, micro_batches: usize) -> Vec<(usize, usize)> {
    let away = |home: Tier| home != Tier::Device && !plan.host_attention;
    let layers = plan.caches.iter().enumerate().filter(|(_, home)| away(**home));
    layers.flat_map(|(layer, _)| (0..micro_batches).map(move |micro| (layer, micro))).collect()
}

/// Uploads that could not be done beside the part before, and the wait.
fn arrive(plan: &StreamPlan, part: usize, steps: &mut Vec<Step>) {
    if plan.shares_ram {
        if !plan.parts[part].streams.is_empty() {
            steps.push(Step::Await { part });
        }
        return;
    }
    let late = plan.parts[part].streams.clone().filter(|&stream| !is_early(plan, stream));
    steps.extend(late.map(|stream| Step::Upload { stream, next_pass: false }));
    if !plan.parts[part].streams.is_empty() {
        steps.push(Step::Await { part });
    }
}

/// Whether a stream's place is free while the part before its own runs.
fn is_early(plan: &StreamPlan, stream: usize) -> bool {
    let stream = &plan.streams[stream];
    let before = (stream.part + plan.parts.len() - 1) % plan.parts.len();
    stream.place.gate.used_by != before
}

/// Uploads for the part after `part` that can be done while it runs.
fn uploads_beside(plan: &StreamPlan, part: usize) -> Vec<Step> {
    if plan.shares_ram {
        return Vec::new();
    }
    let after = (part + 1) % plan.parts.len();
    let early = plan.parts[after].streams.clone().filter(|&stream| is_early(plan, stream));
    early.map(|stream| Step::Upload { stream, next_pass: after == 0 }).collect()
}

/// The `micro`-th of `count` nearly equal shares.
fn share(all: &[Step], micro: usize, count: usize) -> &[Step] {
    &all[micro * all.len() / count..(micro + 1) * all.len() / count]
}
