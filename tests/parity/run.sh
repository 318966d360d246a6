#!/usr/bin/env bash
# Runs every live comparison in a private Python environment, build/parity/venv, made on the first run.
#
#   tests/parity/run.sh [SCRIPT...]      default: every *.py here that has a main program
#
# Environment: SALA (the program), SALA_TEXT (a text file for perplexity; without it that part is skipped, aloud),
# SALA_MODEL (a GGUF file instead of the default model), SALA_PYTHON (an environment that has the requirements already).
set -euo pipefail
cd "$(dirname "$0")/../.."
export SALA=${SALA:-$PWD/build/release/sala}
export SALA_PARITY_DIR=${SALA_PARITY_DIR:-$PWD/build/parity/work}
export PYTHONDONTWRITEBYTECODE=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
[ -x "$SALA" ] || { echo "run.sh: $SALA is not there; run 'make build' first" >&2; exit 1; }

python=$(tests/parity/environment.sh)

scripts=("$@")
if [ ${#scripts[@]} -eq 0 ]; then
    mapfile -t scripts < <(grep -l '^if __name__ == "__main__":' tests/parity/*.py)
fi
[ -n "${SALA_TEXT:-}" ] || echo "SALA_TEXT is not set: perplexity on a text of yours is skipped"
mkdir -p "$SALA_PARITY_DIR"

# Some comparisons look below the public interface, through a small program linked with every module.
parts=$(dirname "$SALA")/libsala_parts.a
driver=$SALA_PARITY_DIR/tok_driver
build_driver() {
    [ -e "$parts" ] || { echo "run.sh: $parts is not there; run 'cmake --build build/release --target sala_parts'" >&2; return 1; }
    # shellcheck disable=SC2046
    cc -std=c11 -D_GNU_SOURCE -O2 -Isrc -Iinclude tests/parity/tok_driver.c "$parts" -o "$driver" \
        $(pkg-config --cflags --libs jansson libpcre2-8 libutf8proc) -lm -lpthread
}

bad=()
for s in "${scripts[@]}"; do
    [ -e "$s" ] || s=tests/parity/$s
    args=()
    case "${s##*/}" in
        tokenizer_parity.py)
            build_driver || { bad+=("${s##*/}"); continue; }
            args=("$driver" --work "$SALA_PARITY_DIR/tokenizers")
            ;;
        templates.py) args=(--lib "$parts") ;;
    esac
    "$python" "$s" "${args[@]}" </dev/null || bad+=("${s##*/}")
done
if [ ${#bad[@]} -gt 0 ]; then
    echo "parity: failed: ${bad[*]}" >&2
    exit 1
fi
echo "parity: ${#scripts[@]} scripts passed"
