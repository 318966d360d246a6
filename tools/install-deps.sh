#!/bin/sh
# Installs the Debian packages that building, testing and the demo need. The only place that lists them.
# Does nothing, quickly, when all of them are there. Uses sudo when not root.
#
#   tools/install-deps.sh            what `make build`, `make demo` and `make test` need
#   tools/install-deps.sh --parity   also what `make parity`, `make bench-peers` and `make bench-train` need
#   tools/install-deps.sh --arm64    also the cross-compiler and qemu-user for the NEON kernels
#   tools/install-deps.sh --list     prints the names and installs nothing
set -eu

packages="
    ca-certificates cmake ninja-build make gcc libc6-dev pkg-config
    libjansson-dev libpcre2-dev libutf8proc-dev libedit-dev nettle-dev libxxhash-dev libxml2-dev
    libdnnl-dev libyaml-dev zlib1g-dev libzstd-dev libopenmpi-dev openmpi-bin
    libcmocka-dev clang clang-format-14 libclang-rt-14-dev
    python3 python3-pip jargon-text"

only_list=no
for option in "$@"; do
    case "$option" in
        --parity) packages="$packages python3-venv python3-dev g++" ;;
        --arm64) packages="$packages gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user" ;;
        --list) only_list=yes ;;
        *) echo "install-deps.sh: unknown option '$option'; allowed: --parity, --arm64, --list" >&2; exit 2 ;;
    esac
done

# shellcheck disable=SC2086  # a list of words
set -- $packages
if [ "$only_list" = yes ]; then
    printf '%s\n' "$@"
    exit 0
fi

if ! command -v dpkg-query >/dev/null 2>&1; then
    echo "install-deps.sh: this is not a Debian system; install the counterparts of these yourself:" >&2
    printf '  %s\n' "$@" >&2
    exit 0
fi

missing=
for p in "$@"; do
    case "$(dpkg-query -W -f '${Status}' "$p" 2>/dev/null || true)" in
        "install ok installed" | "hold ok installed") ;;
        *) missing="$missing $p" ;;
    esac
done
if [ -z "$missing" ]; then
    exit 0
fi

as_root=
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "install-deps.sh: missing packages, and neither root nor sudo to install them. As root, run:" >&2
        echo "  apt-get install -y --no-install-recommends$missing" >&2
        exit 1
    fi
    as_root=sudo
fi
echo "Installing Debian packages:$missing"
export DEBIAN_FRONTEND=noninteractive
# Package lists may be stale or absent on a fresh machine; a failure to refresh them is fatal only if the install fails.
$as_root apt-get update -q >/dev/null || echo "install-deps.sh: apt-get update failed; trying with the lists at hand" >&2
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing </dev/null
