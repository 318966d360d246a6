#!/usr/bin/env bash
# inspect, convert, quantize, export: what they say, what they leave behind, and what they never leave behind.
. "$(dirname "$0")/common.bash"
make_model "$model" wide
greedy=(--temp 0 --kernels ref -n 12 -p "hello world" -q)
# Texts differ where the embedding is padded beyond the vocabulary: GGUF spells such ids, tokenizer.json does not. Ids agree.
ids_of() { python3 -c 'import json; print([t["id"] for t in json.load(open("out"))["tokens"]])'; }
ids() { expect 0 "$SALA" run "$1" "${greedy[@]}" --json --logprobs 0; ids_of; }

expect 0 "$SALA" inspect "$model"
has out "architecture llama"
has out "tokenizer"
has out "template"
has out "memory"
expect 0 "$SALA" inspect "$model" --json --tensors --metadata
json out 'j["architecture"] == "llama" and j["parameters"] == sum(math.prod(t["shape"]) for t in j["tensors"])'
json out 'j["memory"]["kv_bytes_per_token"] == 2 * 2 * j["shape"]["layers"] * j["shape"]["kv_heads"] * j["shape"]["head_dim"]'
json out 'j["tokenizer"]["tokens"] > 256 and j["template"]["generation_prompt"] and "config.json" in j["metadata"]'
expect 0 "$SALA" inspect "$model" --json -c 4K --kv f32
json out 'j["memory"]["context"] == 4096 and j["memory"]["kv_bytes"] == 4096 * j["memory"]["kv_bytes_per_token"]'

# Hugging Face to GGUF and back: the same text each time.
answer=$(ids "$model")
expect 0 "$SALA" convert "$model" --type f32 --out f32.gguf
empty out
[ "$(ids f32.gguf)" = "$answer" ] || fail "f32.gguf answers otherwise"
expect 0 "$SALA" inspect f32.gguf --json --metadata
json out 'j["format"] == "GGUF" and j["metadata"]["general.architecture"] == "llama" and j["metadata"]["tokenizer.ggml.tokens"]["count"] > 256'
expect 0 "$SALA" export f32.gguf --type f32 --out back
[ "$(ids back)" = "$answer" ] || fail "back answers otherwise"
expect 0 "$SALA" tokenize f32.gguf --json -p "hello world"
cp out ids
expect 0 "$SALA" tokenize "$model" --json -p "hello world"
same out ids

# Quantising: every type, by name and by position.
for type in q4_k_m Q8_0 q4_0 iq4_xs q2_k; do
    expect 0 "$SALA" quantize f32.gguf --type $type --out $type.gguf
    has err "bits a weight"
    expect 0 "$SALA" run $type.gguf "${greedy[@]}"
done
expect 0 "$SALA" quantize f32.gguf by-place.gguf q4_k_m --json
json out 'j["out_bytes"] < j["in_bytes"] / 4 and j["tensors"] > 0'
cmp -s by-place.gguf q4_k_m.gguf || fail "the two spellings write different files"
expect 0 "$SALA" quantize f32.gguf --type q4_0 --out dry.gguf --dry-run
[ ! -e dry.gguf ] || fail "--dry-run wrote a file"

# What fails leaves nothing under the final name, nor beside it.
head -c 20000 f32.gguf >cut.gguf
expect 1 "$SALA" quantize cut.gguf --type q4_0 --out bad.gguf
expect 1 "$SALA" inspect cut.gguf
expect 1 "$SALA" quantize f32.gguf --type q4_0 --out no/such/bad.gguf
expect 1 "$SALA" quantize f32.gguf --type q4_0 --out f32.gguf
expect 1 "$SALA" quantize f32.gguf --type q4_0 --imatrix nowhere --out bad.gguf
(ulimit -f 100; trap '' XFSZ; "$SALA" quantize f32.gguf --type q8_0 --out bad.gguf >out 2>err)
[ $? = 1 ] || fail "a file that may not grow: exit code"
has err "bad.gguf"
(ulimit -f 100; trap '' XFSZ; "$SALA" export f32.gguf --type f32 --out bad-directory >out 2>err)
[ $? = 1 ] || fail "export to a full disk: exit code"
[ -z "$(find . -name 'bad*')" ] || fail "left behind: $(find . -name 'bad*')"

# SIGINT while writing: a model large enough to be in the middle of it.
make_model large wide --set num_hidden_layers=8
"$SALA" quantize large --type iq4_xs --out large.gguf -t 1 >out 2>err </dev/null &
pid=$!
for _ in $(seq 200); do ls large.gguf.tmp-* >/dev/null 2>&1 && break; sleep 0.02; done
if kill -INT $pid 2>/dev/null; then
    rc=0
    wait $pid || rc=$?
    # It may have been faster than the signal.
    if [ $rc != 0 ] || [ ! -e large.gguf ]; then
        [ $rc = 1 ] || fail "SIGINT: exit code $rc"
        has err "interrupted"
    fi
    [ -z "$(find . -name 'large.gguf.tmp*')" ] || fail "left behind: $(find . -name 'large.gguf*')"
fi

# Missing parts are named.
make_model shards llama-untied
rm shards/model-00002-of-00002.safetensors 2>/dev/null || rm "$(find shards -name '*00002*' | head -1)"
expect 1 "$SALA" run shards "${greedy[@]}"
has err "00002"
expect 1 "$SALA" inspect shards
has out "not usable"
has out "00002"
has err "00002"
mkdir vocabulary
cp "$model"/tokenizer*.json vocabulary
expect 0 "$SALA" inspect vocabulary
# transformers writes 10^30 where a tokenizer has no limit.
python3 - <<'PY'
import json
c = json.load(open("vocabulary/tokenizer_config.json"))
c["model_max_length"] = int(1e30)
json.dump(c, open("vocabulary/tokenizer_config.json", "w"))
PY
expect 0 "$SALA" tokenize vocabulary --json -p "hello world"
same out ids
"$SALA" template "$model" -p hello >rendered
expect 0 "$SALA" template vocabulary -p hello
same out rendered
cp -r "$model" narrow
python3 - <<'PY'
import json
c = json.load(open("narrow/tokenizer.json"))
c["added_tokens"].append({"id": 1 << 20, "content": "<far>", "special": True, "normalized": False, "lstrip": False, "rstrip": False, "single_word": False})
json.dump(c, open("narrow/tokenizer.json", "w"))
PY
expect 1 "$SALA" inspect narrow --json
has err 1048576
json out 'j["problems"][0]["what"] == "tokenizer" and not j["problems"][0]["absent"]'
expect 1 "$SALA" run narrow "${greedy[@]}"
has err 1048576
finish
