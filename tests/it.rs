//! The one integration test binary of `forebay`. Each module says what it holds.

/// Passes that are made alike reuse memory.
#[path = "it/allocations.rs"]
mod allocations;
/// Jobs of given lengths are measured and told in every format.
#[path = "it/bench.rs"]
mod bench;
/// Budgets are kept.
#[path = "it/budget.rs"]
mod budget;
/// The machine is measured, and the profile is written, printed and kept.
#[path = "it/calibrate.rs"]
mod calibrate;
/// The real binary: answers, errors, exit codes.
#[path = "it/cli.rs"]
mod cli;
/// Draft trees from the command line.
#[path = "it/drafts.rs"]
mod drafts;
/// Disks that fail.
#[path = "it/faults.rs"]
mod faults;
/// Real models against exact arithmetic.
#[path = "it/golden.rs"]
mod golden;
/// Attention on the host, beside the device.
#[path = "it/host_attention.rs"]
mod host_attention;
/// Token ids depend on the request alone.
#[path = "it/invariance.rs"]
mod invariance;
/// Every kernel of the wgpu device against the reference.
#[path = "it/kernels.rs"]
mod kernels;
/// Token ids do not depend on where weights live.
#[path = "it/placement.rs"]
mod placement;
/// Runs that are killed and taken up again.
#[path = "it/resume.rs"]
mod resume;
/// Draft trees change no token.
#[path = "it/speculation.rs"]
mod speculation;
/// Models, devices and engines for the other modules.
#[path = "it/support.rs"]
mod support;
/// Synthetic models: written, inspected, run, and refused.
#[path = "it/synth.rs"]
mod synth;
/// House rules: who may import whom, one home per dependency, sizes, twins of kernels.
#[path = "it/tidy.rs"]
mod tidy;
/// Small models of every architecture against an independent implementation.
#[path = "it/tiny.rs"]
mod tiny;
/// Texts and conversations to ids.
#[path = "it/tokens.rs"]
mod tokens;
/// Rows of draft trees have the bits of plain sequences.
#[path = "it/tree_rows.rs"]
mod tree_rows;
