#!/usr/bin/env bash
# Logits of small checkpoints of every family against frozen reference vectors, whole and in chunks.
set -eu
work="$SALA_BUILD/logits_frozen"
rm -rf "$work"
for chunk in 512 7; do
    echo "chunks of $chunk"
    python3 "$SALA_SOURCE/tests/fixtures/compare_logits.py" "$SALA" "$work" --chunk "$chunk"
done
rm -rf "$work"
