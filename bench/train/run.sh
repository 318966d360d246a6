#!/usr/bin/env bash
# Training steps next to PyTorch, in the private environment of the parity tests. Arguments are handed to train_bench.py.
#   WORKS, ROUNDS, STEPS, THREADS: what is measured, how often, with how many threads; QUICK=1: 2 steps, nothing beyond 32 K
#   PUBLISH=1: the result becomes what docs/performance.md quotes; SALA_PYTHON: an environment that has PyTorch already
set -euo pipefail
cd "$(dirname "$0")/../.."
export SALA=${SALA:-$PWD/build/release/sala} PYTHONDONTWRITEBYTECODE=1
python=$(tests/parity/environment.sh)
exec "$python" bench/train/train_bench.py ${WORKS:+--works "$WORKS"} ${ROUNDS:+--rounds "$ROUNDS"} ${STEPS:+--steps "$STEPS"} \
    ${THREADS:+--threads "$THREADS"} ${QUICK:+--quick} ${PUBLISH:+--publish} "$@"
