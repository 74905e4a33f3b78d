#!/usr/bin/env bash
# Fuzzes every decoder, or those that are named, for so many seconds each.
#     fuzz/run.sh 3600            # an hour each
#     fuzz/run.sh 60 token knock  # a minute each
# The instrumentation is rustc's own, so the stable compiler does; a C++
# compiler builds libFuzzer. What is worth keeping lands in fuzz/corpus, what
# fails in fuzz/found.
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:-60}
shift || true
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing"
target=$(rustc -vV | sed -n 's/^host: //p')
cargo build --release --locked --target "$target"
bin=target/$target/release/fuzz

targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(ls corpus)
mkdir -p found
for name in "${targets[@]}"; do
    mkdir -p "target/grown/$name"
    echo "=== $name, $seconds s"
    ALTHING_FUZZ_TARGET=$name "$bin" "target/grown/$name" "corpus/$name" \
        -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=1024 \
        -artifact_prefix="found/$name-" -print_final_stats=1 2>&1 |
        grep -E "DONE|BINGO|ERROR|SUMMARY|panicked|stat::number_of_executed_units|stat::peak_rss|^#[0-9]+.*(DONE|INITED)" || true
done
echo "=== found"
ls found
