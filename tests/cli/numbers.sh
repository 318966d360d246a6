#!/usr/bin/env bash
# logits, ppl and bench: the contracts that other programs read.
. "$(dirname "$0")/common.bash"
make_model "$model" llama-tied

cat >npy.py <<'PY'
import array, ast, struct, sys
def load(path):
    b = open(path, "rb").read()
    assert b[:8] == b"\x93NUMPY\x01\x00"
    n = struct.unpack("<H", b[8:10])[0]
    head = ast.literal_eval(b[10:10 + n].decode())
    assert head["descr"] == "<f4" and not head["fortran_order"] and (10 + n) % 64 == 0
    a = array.array("f")
    a.frombytes(b[10 + n:])
    assert len(a) == head["shape"][0] * head["shape"][1]
    return head["shape"], a
PY
export PYTHONPATH="$work"

# logits: shape, independence of chunks, tokens from anywhere.
expect 0 "$SALA" tokenize "$model" --ids -p "hello world, one two three"
cp out ids
tr ' ' '\n' <ids | sed 's/^/ \t/' >ids.lines
expect 0 "$SALA" logits "$model" --tokens-file ids --out whole.npy
empty out
python3 -c 'from npy import *; s, a = load("whole.npy"); assert s[0] == len(open("ids").read().split()) and s[1] == 352' || fail "shape"
for chunk in 1 7; do
    expect 0 "$SALA" logits "$model" --tokens-file ids.lines --chunk $chunk --out chunk.npy
    python3 -c 'from npy import *; _, a = load("whole.npy"); _, b = load("chunk.npy"); assert max(abs(x - y) for x, y in zip(a, b)) <= 1e-5 * max(map(abs, a))' ||
        fail "chunks of $chunk"
done
expect 0 "$SALA" logits "$model" --text "hello world, one two three" --out text.npy
same text.npy whole.npy
"$SALA" logits "$model" --tokens-file - --out piped.npy -q <ids 2>err || fail "ids from standard input"
same piped.npy whole.npy
for kernels in auto; do
    expect 0 "$SALA" logits "$model" --tokens-file ids --kernels $kernels --out auto.npy
    python3 -c 'from npy import *; _, a = load("whole.npy"); _, b = load("auto.npy"); assert max(abs(x - y) for x, y in zip(a, b)) <= 0.1 * max(map(abs, a))' ||
        fail "--kernels $kernels"
done
# Bad ids, no ids, a folder that is not there: 1 and no file.
echo "1 2 352" >bad
expect 1 "$SALA" logits "$model" --tokens-file bad --out bad.npy
has err "352"
echo "1 2 x" >bad
expect 1 "$SALA" logits "$model" --tokens-file bad --out bad.npy
: >bad
expect 1 "$SALA" logits "$model" --tokens-file bad --out bad.npy
expect 1 "$SALA" logits "$model" --text a --out no/such/bad.npy
[ ! -e bad.npy ] || fail "bad.npy was left behind"
# The rename at the end would take the place of whatever is there: only plain files may be.
mkfifo pipe
expect 1 "$SALA" logits "$model" --text a --out pipe
[ -p pipe ] || fail "a pipe was replaced by a file"
mkdir dir
expect 1 "$SALA" logits "$model" --text a --out dir

# ppl: the figure that follows from the logits.
python3 - <<'PY' >text
import random
random.seed(3)
words = "hello world one two three four five six seven light dark water stone tree house river".split()
print(" ".join(random.choice(words) for _ in range(400)), end="")
PY
expect 0 "$SALA" ppl "$model" text --ctx 64 --json --kernels ref
cp out half.json
json out 'j["perplexity"] > 1 and j["windows"] == j["tokens"] // 64 and j["tokens_counted"] == 31 * j["windows"]'
expect 0 "$SALA" ppl "$model" text --ctx 64 --json --kernels ref --all
cp out all.json
json out 'j["tokens_counted"] == 63 * j["windows"]'
"$SALA" tokenize "$model" --ids --no-parse-special <text >text.ids
python3 - "$SALA" "$model" <<'PY' || fail "perplexity does not follow from the logits"
import json, math, subprocess, sys
from npy import load
ids = [int(x) for x in open("text.ids").read().split()]
sums = {"half": [0.0, 0], "all": [0.0, 0]}
for w in range(len(ids) // 64):
    part = ids[64 * w:64 * w + 64]
    open("w.ids", "w").write(" ".join(map(str, part)))
    subprocess.run([sys.argv[1], "logits", sys.argv[2], "--tokens-file", "w.ids", "--out", "w.npy", "-q"], check=True)
    (n, v), a = load("w.npy")
    for i in range(63):
        row = a[i * v:(i + 1) * v]
        top = max(row)
        nll = top + math.log(sum(math.exp(x - top) for x in row)) - row[part[i + 1]]
        for k, first in (("half", 32), ("all", 0)):
            if i >= first:
                sums[k][0] += nll
                sums[k][1] += 1
for k, (s, n) in sums.items():
    got = json.load(open(k + ".json"))["perplexity"]
    want = math.exp(s / n)
    assert abs(got - want) <= 1e-4 * want, (k, got, want)
PY
expect 0 "$SALA" ppl "$model" text --ctx 64
has out "perplexity"
"$SALA" ppl "$model" --ctx 64 --json --kernels ref <text >out 2>err || fail "text from standard input"
python3 -c 'import json; a, b = (json.load(open(f))["perplexity"] for f in ("out", "half.json")); assert a == b' || fail "standard input"
expect 1 "$SALA" ppl "$model" text --ctx 100000
has err "--ctx"
expect 1 "$SALA" ppl "$model" nowhere
has err nowhere

# bench: rows, order and fields.
expect 0 "$SALA" bench "$model" -p 16 -n 4 -d 0,32 -t 1 --repeat 2 --json
json out '[(r["kind"], r["n"], r["depth"], r["threads"]) for r in j] == [("prefill", 16, 0, 1), ("decode", 4, 0, 1), ("prefill", 16, 32, 1), ("decode", 4, 32, 1)]'
json out 'all(len(r["samples"]) == 2 and abs(sum(r["samples"]) / 2 - r["tokens_per_second"]) < 1e-6 * r["tokens_per_second"] and r["peak_rss_bytes"] > 0 for r in j)'
expect 0 "$SALA" bench "$model" -p 0 -n 4 --repeat 1 --json
json out '[r["kind"] for r in j] == ["decode"]'
expect 0 "$SALA" bench "$model" -p 8,16 -n 0 --depth 0 --repeat 1
[ "$(grep -c '^prefill' out)" = 2 ] || fail "two rows of prefill"

# A checkpoint without a tokenizer computes from ids, through GGUF too; only text is refused.
mkdir bare
cp "$model"/config.json "$model"/*.safetensors bare
expect 0 "$SALA" convert bare --type f32 --out bare.gguf
has err "no tokenizer"
for m in "$model" bare bare.gguf; do
    echo 5 6 7 >ids.txt
    expect 0 "$SALA" logits "$m" --tokens-file ids.txt --out "$(basename "$m").npy"
    expect 0 "$SALA" bench "$m" -p 8 -n 0 --repeat 1 --json
done
same bare.npy model.npy
for m in bare bare.gguf; do
    expect 1 "$SALA" logits "$m" --text hello --out text.npy
    has err tokenizer
    expect 1 "$SALA" run "$m" -p hello --raw
    has err tokenizer
    expect 1 "$SALA" tokenize "$m" -p hello
    has err tokenizer
done
echo '{"version": "1.0", "model": ' >bare/tokenizer.json
expect 1 "$SALA" logits bare --tokens-file ids.txt --out broken.npy
has err tokenizer.json
finish
