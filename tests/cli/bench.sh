#!/usr/bin/env bash
# bench: several models, depths that are filled or read, a depth beyond memory, the chart; operations without a model.
. "$(dirname "$0")/common.bash"
"$SALA" random "$SALA_SOURCE/examples/configs/minicpm-sala-tiny.json" --type q4_0 --out tiny.gguf -q || exit 1
make_model "$model" qwen3
well_formed() { python3 -c 'import sys, xml.dom.minidom as m; m.parse(sys.argv[1])' "$1" || fail "$1 is not XML"; }

expect 0 "$SALA" bench tiny.gguf "$model" -p 8 -n 2 -d 0,1K --repeat 1 --json --plot two.svg
json out '[(r["model"], r["kind"], r["n"], r["depth"]) for r in j] == [(m, k, n, d) for m in ("tiny", "model") for d in (0, 1024) for k, n in (("prefill", 8), ("decode", 2))]'
json out 'all(r["filled"] == (r["depth"] > 0) and r["peak_rss_bytes"] > r["session_bytes"] for r in j)'
json out 'all(r["session_bytes"] > 0 for r in j if r["depth"])'
well_formed two.svg
for words in "Prefill, tokens per second (8 tokens)" "Decode, tokens per second (2 tokens)" ">tiny<" ">model<" ">1K<" "random content"; do
    has two.svg "$words"
done

# The table says where the content comes from; reading it instead says nothing of the kind and takes the same memory.
expect 0 "$SALA" bench tiny.gguf -p 8 -n 0 -d 1K --repeat 1
has out "filled to their depth with random content"
expect 0 "$SALA" bench tiny.gguf -p 8 -n 0 -d 1K --repeat 1 --prefill-depth
lacks out "random content"
"$SALA" bench "$model" -p 8 -n 0 -d 1K --repeat 1 --json >filled
"$SALA" bench "$model" -p 8 -n 0 -d 1K --repeat 1 --json --prefill-depth >real
python3 - <<'PY' || fail "a filled session takes other memory than a read one"
import json
a, b = (json.load(open(f))[0]["session_bytes"] for f in ("filled", "real"))
raise SystemExit(a != b)
PY
# The same for each type of cache; a model with full attention takes sparse settings.
for kv in f32 f16 q8_0 q4; do
    expect 0 "$SALA" bench tiny.gguf -p 8 -n 2 -d 300 --repeat 1 --kv $kv -q
done
expect 0 "$SALA" bench "$model" -p 8 -n 2 -d 300 --repeat 1 --sparse topk=2,window=64,dense-len=128
expect 1 "$SALA" bench "$model" -p 8 -n 2 --sparse topk=none
has err topk

# What memory cannot hold is left out with its numbers, and the rest is measured.
expect 0 "$SALA" bench "$model" -p 8 -n 0 -d 64,2G --repeat 1 --json --plot skip.svg
json out '[(r["kind"], r["depth"]) for r in j] == [("prefill", 64), ("skipped", 2 ** 31)] and "weights" in j[1]["why"]'
has skip.svg "does not fit into"
well_formed skip.svg
expect 0 "$SALA" bench "$model" -p 8 -n 0 -d 64,2G --repeat 1
has out "Depth 2147483648 was left out"

# A name may hold anything; bad models and pictures that cannot be written are errors.
cp tiny.gguf 'a<b&"c".gguf'
expect 0 "$SALA" bench 'a<b&"c".gguf' tiny.gguf -p 4 -n 0 --repeat 1 --json --plot odd.svg
well_formed odd.svg
expect 1 "$SALA" bench tiny.gguf nothing.gguf -p 4 -n 0 --repeat 1
has err "nothing.gguf"
expect 1 "$SALA" bench tiny.gguf -p 4 -n 0 --repeat 1 --plot "$work"
has err "directory"
expect 2 "$SALA" bench
has err MODEL

# Operations beside the limits of the machine: each row has one that was measured in the same run. Filters are parts of
# names in any case; several add up.
expect 0 "$SALA" bench --ops "rms_norm 1 x" ARGMAX --repeat 1 --json
json out '[r["operation"] for r in j if r["kind"] != "limit"] == ["rms_norm", "argmax"]'
json out 'all(r["seconds"] > 0 and r["percent"] > 0 and len(r["samples"]) == 1 for r in j if r["kind"] != "limit")'
json out '{r["limit"] for r in j if r["kind"] != "limit"} <= {r["operation"] for r in j if r["kind"] == "limit" and r["per_second"] > 0}'
json out 'all(abs(r["percent"] - 100 * r["per_second"] / r["limit_per_second"]) < 1e-6 * r["percent"] for r in j if r["kind"] != "limit")'
for kernels in ref auto; do
    expect 0 "$SALA" bench --ops "rope pairs 1 x" -t 3 --repeat 1 --kernels $kernels
    has out "3 threads"
    has out "rope pairs"
    has out "share"
done
expect 2 "$SALA" bench --ops no-such-kernel
has err "none of the"
has err "no-such-kernel"
expect 2 "$SALA" bench --ops -m tiny.gguf
has err "without a model"
expect 2 "$SALA" bench --ops --plot ops.svg
has err "--plot"
expect 2 "$SALA" bench --ops=all
has err "takes no value"
expect 1 "$SALA" bench --ops rope --kernels abacus
has err abacus
finish
