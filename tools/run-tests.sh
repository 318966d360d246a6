#!/usr/bin/env bash
# What `make test` does, in order, stopping at the first failure. Every step says what it is and how long it took.
#
#   tools/run-tests.sh            all of it
#   tools/run-tests.sh quick      checks of the sources, the release build and its tests
#   tools/run-tests.sh asan       only the build with address and undefined-behaviour sanitizers, and its tests
#   tools/run-tests.sh tsan       only the build with the thread sanitizer, and its tests
set -euo pipefail
cd "$(dirname "$0")/.."
jobs=${JOBS:-$(nproc)}
what=${1:-all}
began=$SECONDS

step() {
    local name=$1 start=$SECONDS
    shift
    printf '\n==> %s\n' "$name"
    if ! "$@"; then
        printf '\nFAILED: %s\n' "$name" >&2
        exit 1
    fi
    printf '    %s: %d s\n' "$name" $((SECONDS - start))
}

configure_and_build() {
    cmake --preset "$1" --log-level=WARNING >/dev/null && cmake --build "build/$1" --parallel "$jobs" --target "$2"
}

run_ctest() {
    ctest --test-dir "build/$1" --output-on-failure --no-tests=error -j "$jobs" </dev/null
}

# A leak or a report of undefined behaviour is a failure, and says where.
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1:strict_string_checks=1:check_initialization_order=1}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1:halt_on_error=1}
export TSAN_OPTIONS=${TSAN_OPTIONS:-halt_on_error=1}

sources() {
    step "floors: includes go down only" tools/check-floors.py
    step "layout: clang-format" tools/check-format.sh
    step "headers compile on their own" tools/check-headers.sh
    step "figures next to llama.cpp are those of their report" bench/peers/report.py --check
    step "figures next to PyTorch are those of their report" bench/train/train_report.py --check
}

release() {
    step "build with gcc, warnings are errors" configure_and_build release all
    step "symbols start with sala_" tools/check-symbols.sh build/release
    step "tests" run_ctest release
}

sanitized() {
    step "build with -fsanitize=$2" configure_and_build "$1" all
    step "tests under the sanitizers" run_ctest "$1"
}

case "$what" in
    quick) sources && release ;;
    asan) sanitized asan address,undefined ;;
    tsan) sanitized tsan thread ;;
    all)
        sources
        release
        step "build with clang, warnings are errors" configure_and_build clang all
        sanitized asan address,undefined
        ;;
    *) echo "run-tests.sh: unknown part '$what'; allowed: quick, asan, tsan" >&2; exit 2 ;;
esac
printf '\nAll passed in %d s.\n' $((SECONDS - began))
