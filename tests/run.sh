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
# The switches of planted bugs are in all that is tested, so that it is built once; off, but where
# a test plants one. Clippy, the documentation and the release build are without them.
tested=(cargo test --locked --features planted-bugs)
step "${tested[@]}" --lib --bins
step "${tested[@]}" --lib -- --ignored --skip how_it_scales # a quarter of a minute of real silence each; the figures of docs/performance.md on request
step tests/previous.sh # what the rolling upgrade of tests/chaos starts from
step "${tested[@]}" --test '*' -- --skip planted::

# The program as users build it, with the benchmarks of it: as a whole, which keeps one core busy for
# a quarter of an hour. Nothing until then measures time.
if ! $quick; then
    building=$(mktemp)
    cargo bench --locked --bench idle --bench face --no-run >"$building" 2>&1 &
    build=$!
    trap 'kill "$build" 2>/dev/null || true' EXIT
fi
step "${tested[@]}" --test simulation planted:: -- --nocapture
step "${tested[@]}" --doc
for example in embedded driver action; do
    step cargo run --locked --features planted-bugs --example "$example"
done

if $quick; then
    echo "=== left out by --quick: the demo and two benchmarks, in release"
    exit 0
fi
echo
echo "=== cargo bench --locked --bench idle --bench face --no-run (begun before the last three)"
built=0
wait "$build" || built=$?
trap - EXIT
cat "$building"
[ "$built" = 0 ]
# The same without what only tests need.
step cargo check --locked --release
for run in 1 2 3; do
    echo "=== demo, run $run of 3"
    step "${CARGO_TARGET_DIR:-target}/release/althing" demo --exit --json
done
step cargo bench --locked --bench idle -- --quick
step cargo bench --locked --bench face -- --quick
