#!/usr/bin/env bash
# All checks and tests, in the order in which they fail fastest. Prints what it
# runs. Options: --quick leaves out the release build (demo and benchmark).
set -euo pipefail
cd "$(dirname "$0")/.."

quick=false
[ "${1:-}" = "--quick" ] && quick=true

step() {
    local started=$SECONDS
    echo
    echo "=== $*"
    "$@"
    echo "--- $((SECONDS - started)) s"
}

step cargo fmt --check
step cargo clippy --all-targets --locked -- -D warnings
step env RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked
step cargo test --locked --lib --bins
step cargo test --locked --lib -- --ignored --skip how_it_scales # a quarter of a minute of real silence each; the figures of docs/performance.md on request
step tests/previous.sh # what the rolling upgrade of tests/chaos starts from
step cargo test --locked --test '*'
step cargo test --locked --features planted-bugs --test simulation planted:: -- --nocapture
step cargo test --locked --doc
step cargo run --locked --example embedded

if $quick; then
    echo "=== left out by --quick: the demo and the idle benchmark, in release"
    exit 0
fi
# As users build it, without what only tests need; the program itself is built once, with the
# benchmark of it: it takes a quarter of an hour.
step cargo check --locked --release
step cargo bench --locked --bench idle --no-run
for run in 1 2 3; do
    echo "=== demo, run $run of 3"
    step "${CARGO_TARGET_DIR:-target}/release/althing" demo --exit --json
done
step cargo bench --locked --bench idle -- --quick
