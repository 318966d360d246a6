#!/usr/bin/env bash
# Brings llama.cpp as the Python package llama-cpp-python (built from source, some minutes the first time) into a private
# environment and runs compare.py. Arguments are handed on.
#   WORKS, ROUNDS, THREADS: what is measured, how often, with how many threads; MODEL: a file or name instead of WORKS
#   MODELS: where random models are kept (build/bench/models); PUBLISH=1: the result becomes what README.md quotes
#   SALA_PYTHON: an environment that has llama_cpp already
set -euo pipefail
cd "$(dirname "$0")/../.."
export SALA=${SALA:-$PWD/build/release/sala} PYTHONDONTWRITEBYTECODE=1
python=${SALA_PYTHON:-}
if [ -z "$python" ]; then
    python=build/bench/venv/bin/python
    if ! "$python" -c 'import llama_cpp' 2>/dev/null; then
        echo "Making the environment build/bench/venv (builds llama.cpp; some minutes)"
        python3 -m venv build/bench/venv
        "$python" -m pip install -q 'llama-cpp-python>=0.3.36'
    fi
fi
if [ -n "${MODEL:-}" ]; then
    [ -e "$MODEL" ] || "$SALA" pull "$MODEL" -q
    set -- --model "$MODEL" "$@"
elif [[ ,${WORKS:-default}, == *,@(default|all|smollm2),* ]]; then
    "$SALA" pull smollm2 -q
fi
exec "$python" bench/peers/compare.py ${WORKS:+--works "$WORKS"} ${ROUNDS:+--rounds "$ROUNDS"} \
    ${THREADS:+--threads "$THREADS"} ${MODELS:+--models "$MODELS"} ${PUBLISH:+--publish} "$@"
