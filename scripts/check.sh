#!/usr/bin/env bash
# The one door: formatting, lints, tests. Installs what the tests need first.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/install-test-deps
cargo fmt --all --check
cargo clippy --quiet --release --workspace --all-targets --locked -- -D warnings
cargo test --release --workspace --locked
