#!/usr/bin/env bash
# Builds every libFuzzer target with address and undefined-behaviour sanitizers and runs each for FUZZ_SECONDS (60).
#   tools/run-fuzz.sh [TARGET...]        e.g. tools/run-fuzz.sh gguf jinja
# New inputs that reach more code go to build/fuzz/corpus/<target>, crashes to build/fuzz/crashes/<target>-*; the seeds in
# tests/fuzz/corpus are only read. Ends at the first finding, with the input's path.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${FUZZ_SECONDS:-60}
jobs=${JOBS:-$(nproc)}
cmake --preset fuzz --log-level=WARNING >/dev/null
names=("$@")
if [ ${#names[@]} -eq 0 ]; then
    for f in tests/fuzz/fuzz_*.c; do
        name=${f##*/fuzz_}
        names+=("${name%.c}")
    done
fi
cmake --build build/fuzz --parallel "$jobs" --target "${names[@]/#/fuzz_}"
mkdir -p build/fuzz/crashes
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1:allocator_may_return_null=1}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1:halt_on_error=1}

fuzz_one() {
    local name=$1 log=build/fuzz/$1.log
    mkdir -p "build/fuzz/corpus/$name" "tests/fuzz/corpus/$name"
    if "build/fuzz/fuzz_$name" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096 -print_final_stats=1 \
        -artifact_prefix="build/fuzz/crashes/$name-" "build/fuzz/corpus/$name" "tests/fuzz/corpus/$name" >"$log" 2>&1; then
        printf '%-14s %s runs, no finding\n' "$name" \
            "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")"
    else
        printf '%-14s FOUND something; the end of %s:\n' "$name" "$log" >&2
        tail -n 40 "$log" >&2
        return 1
    fi
}
export -f fuzz_one
export seconds
printf 'Fuzzing %d targets for %d s each, %d at a time.\n' ${#names[@]} "$seconds" "$jobs"
printf '%s\n' "${names[@]}" | xargs -P "$jobs" -I{} bash -c 'fuzz_one {} || exit 255'
