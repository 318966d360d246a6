#!/usr/bin/env bash
# Brings llama.cpp as the Python package llama-cpp-python (built from source, some minutes the first time) into a private
# environment and runs compare.py. Arguments are handed on.
#   MODEL and THREADS choose the model and the threads; SALA_PYTHON an environment that has llama_cpp already.
set -euo pipefail
cd "$(dirname "$0")/../.."
export SALA=${SALA:-$PWD/build/release/sala} PYTHONDONTWRITEBYTECODE=1
python=${SALA_PYTHON:-}
if [ -z "$python" ]; then
    python=build/bench/venv/bin/python
    if ! "$python" -c 'import llama_cpp' 2>/dev/null; then
        echo "Making the environment build/bench/venv (builds llama.cpp; some minutes)"
        python3 -m venv build/bench/venv
        "$python" -m pip install -q 'llama-cpp-python>=0.3.9'
    fi
fi
model=${MODEL:-smollm2}
[ -e "$model" ] || "$SALA" pull "$model"
exec "$python" bench/peers/compare.py --model "$model" ${THREADS:+--threads "$THREADS"} "$@"
