#!/bin/sh
# Builds the kernel check for AArch64 with the cross compiler and runs it under qemu, where both are installed (Debian:
# gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user). The kernels need nothing but libc, so that no other foreign
# library is asked for. Arguments go to sala_check; exit code 77 when a tool is missing.
set -eu
cd "$(dirname "$0")/.."
CC=${CC_ARM:-aarch64-linux-gnu-gcc}
QEMU=${QEMU:-qemu-aarch64}
ROOT=${ROOT_ARM:-/usr/aarch64-linux-gnu}
for tool in "$CC" "$QEMU"; do
    command -v "$tool" >/dev/null || { echo "check-arm: no $tool" >&2; exit 77; }
done
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
flags="-std=c11 -D_GNU_SOURCE -Isrc -Iinclude -Itests -O2 -Wall -Wextra -Wpedantic -Wshadow -Wvla -Werror
    -ffp-contract=off -fno-math-errno -fno-strict-aliasing"
objects=
for f in src/kernels/*.c src/kernels/ref/*.c src/kernels/arm/*.c src/tensor/*.c src/os/*.c tests/check/*.c; do
    isa=
    case $f in
    *_dotprod.c) isa=-march=armv8.2-a+dotprod+fp16 ;;
    *_i8mm.c) isa=-march=armv8.2-a+dotprod+fp16+i8mm ;;
    esac
    o="$out/$(echo "$f" | tr / _).o"
    # shellcheck disable=SC2086
    "$CC" $flags $isa -c "$f" -o "$o"
    objects="$objects $o"
done
# shellcheck disable=SC2086
"$CC" $objects -o "$out/sala_check" -lm -lpthread
for cpu in max neoverse-n1 cortex-a72; do # with matrix and dot product instructions, with the latter, with neither
    echo "qemu-aarch64 -cpu $cpu"
    "$QEMU" -L "$ROOT" -cpu "$cpu" "$out/sala_check" "$@"
done
