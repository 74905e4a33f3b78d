#!/usr/bin/env bash
# Prints the path of the program of the commit before this one (or of the commit
# that ALTHING_PREVIOUS names), and builds it first where that was not done yet:
# what the rolling upgrade of tests/chaos starts from.
set -euo pipefail
cd "$(dirname "$0")/.."

wanted=${ALTHING_PREVIOUS:-HEAD~1}
if ! commit=$(git rev-parse --verify --quiet "$wanted^{commit}"); then
    echo "$wanted is not in this clone: get its history (git fetch --unshallow), or name a commit" \
        "with ALTHING_PREVIOUS" >&2
    exit 1
fi
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
place=$target/previous/$commit
if [ ! -x "$place/althing" ]; then
    rm -rf "$place/source" "$place/target" # of a build that was cut short
    mkdir -p "$place/source"
    git archive "$commit" | tar x -C "$place/source"
    # Links to what this checkout has built already: the dependencies are the same.
    if [ -d "$target/debug/deps" ]; then
        mkdir -p "$place/target/debug"
        cp -al "$target/debug/"{deps,build,.fingerprint} "$place/target/debug/"
        rm -rf "$place/target/debug/"{deps/*althing*,.fingerprint/althing-*}
    fi
    # Nothing is measured of it, so it may be slow: without optimisation it is built in half the time.
    cargo build --config profile.dev.package.althing.opt-level=0 --locked --bin althing \
        --manifest-path "$place/source/Cargo.toml" --target-dir "$place/target" >&2
    cp "$place/target/debug/althing" "$place/althing.new"
    mv "$place/althing.new" "$place/althing"
    rm -rf "$place/source" "$place/target"
fi
echo "$place/althing"
